"""Harm done to a store behind its back."""

from loopwright.store.space import Space


def damage(space: Space, digest: str, data: bytes | None) -> None:
    """Put other bytes in place of a blob, or none, in the store itself and in the cache before it."""
    path = space.blobs.path(digest)
    path.chmod(0o600)
    if space.blobs.remote:
        import obstore

        key = f"{digest[:2]}/{digest}"
        store = space.blobs._store  # type: ignore[attr-defined]
        obstore.delete(store, key) if data is None else obstore.put(store, key, data)
    path.unlink() if data is None else path.write_bytes(data)
