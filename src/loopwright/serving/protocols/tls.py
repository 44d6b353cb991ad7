"""The TLS that a listener speaks, from the certificate and key that the settings name."""

import ssl
from pathlib import Path

from loopwright.kernel.errors import Invalid
from loopwright.kernel.settings import Settings

HANDSHAKE_S = 10.0


def context(settings: Settings, root: Path) -> ssl.SSLContext | None:
    """The TLS of a project's listeners, or None when they speak none.

    Raises:
        Invalid: certificate or key cannot be read, or do not belong together, or everybody may read the key.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    key = root / settings.tls_key
    try:
        if key.stat().st_mode & 0o007:
            raise Invalid(f"{settings.tls_key} may be read by everybody", code="bind.key-mode", field="tls_key",
                          hint=f"chmod o= {settings.tls_key}")  # fmt: skip
        made.load_cert_chain(root / settings.tls_cert, key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or type(error).__name__
        message = f"the TLS certificate and key cannot be used: {why}"
        raise Invalid(message, code="bind.cert", field="tls_cert") from None
    return made
