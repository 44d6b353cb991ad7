"""Harm done to a store behind its back."""

from loopwright.store.blobs import Blobs
from loopwright.store.space import Space


def damage(space: Space, digest: str, data: bytes | None) -> None:
    """Put other bytes in place of a blob of a Space, or none."""
    damage_blobs(space.blobs, digest, data)


def damage_blobs(blobs: Blobs, digest: str, data: bytes | None) -> None:
    """Put other bytes in place of a blob, or none, in the store itself and in the cache before it."""
    local = getattr(blobs, "local", blobs)
    path = local.path(digest)
    if path.exists():
        path.chmod(0o600)
    if blobs.remote:
        import obstore

        key = f"{digest[:2]}/{digest}"
        store = blobs._store  # type: ignore[attr-defined]
        obstore.delete(store, key) if data is None else obstore.put(store, key, data)
    if data is None:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
