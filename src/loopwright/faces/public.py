"""What must hold before a server answers to more than this machine, and what workers are told of who may in."""

from __future__ import annotations

import contextlib
from pathlib import Path

from loopwright.access import published, publishing, service, users
from loopwright.faces import door
from loopwright.faces.client import is_loopback
from loopwright.kernel.errors import Invalid, Unavailable
from loopwright.kernel.settings import Settings
from loopwright.serving.protocols import tls
from loopwright.store.space import Space


def check_bind(settings: Settings, admins: int, root: Path) -> None:
    """Go on only when a server may listen where the settings say.

    Args:
        admins: how many users can come in as admin of the whole Space.

    Raises:
        Invalid: it would answer to other machines without users, or without TLS or a proxy that ends it.
    """
    if settings.tls_cert is not None or settings.tls_key is not None:
        tls.context(settings, root)
    if is_loopback(settings.host):
        return
    if admins == 0:
        raise Invalid(
            f"{settings.host} is open to other machines, and no user is there to log in", code="bind.users",
            field="host", hint="lw users invite NAME --role admin",
        )  # fmt: skip
    if settings.tls_cert is None and not settings.behind_proxy:
        raise Invalid(
            f"{settings.host} is open to other machines, and what is sent could be read on the way", code="bind.tls",
            field="host", hint="lw up --tls-cert FILE --tls-key FILE, or --behind-proxy when a proxy ends TLS",
        )  # fmt: skip


def check_space(space: Space) -> None:
    """Go on only when a server of this Space may listen where its settings say.

    Raises:
        Invalid: it may not.
    """
    check_bind(space.settings, 0 if is_loopback(space.settings.host) else users.admins(space), space.root)


def hosts(settings: Settings, port: int) -> list[str]:
    """The Host headers besides loopback's that are answered to."""
    names = [*settings.public_hosts]
    if not is_loopback(settings.host) and settings.host not in ("0.0.0.0", "::"):
        names.append(f"[{settings.host}]" if ":" in settings.host else settings.host)
    return sorted({form for name in names for form in (name.lower(), f"{name.lower()}:{port}")})


def gate(space: Space, folder: Path, port: int) -> tuple[door.Gate, Publisher]:
    """Who may in at control, and what tells workers who may in at theirs."""
    settings, token = space.settings, publishing.local_token(folder)
    names = hosts(settings, port)
    made = door.Gate(
        space,
        hosts=[*door.loopback_hosts(port), *names],
        behind_proxy=settings.behind_proxy,
        secure=settings.tls_cert is not None,
        local_sha256=published.digest(token),
    )
    return made, Publisher(space, folder, names, token)


class Publisher:
    """Keeps the file for workers as new as the Space; `token` stands for the owner on this machine."""

    def __init__(self, space: Space, folder: Path, names: list[str], token: str) -> None:
        self._space, self._folder, self._names, self.token = space, folder, names, token
        self._generation = 0

    def look(self) -> None:
        """Publish anew when who may what has changed; a database that does not answer is asked again later."""
        with contextlib.suppress(Unavailable):
            if service.refreshed(self._space).generation != self._generation:
                self.publish()

    def publish(self) -> None:
        """Publish now."""
        settings = self._space.settings
        self._generation = publishing.publish(
            self._space, self._folder, hosts=self._names, behind_proxy=settings.behind_proxy, local=self.token
        )
