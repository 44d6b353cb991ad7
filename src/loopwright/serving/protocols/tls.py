"""The TLS that a listener speaks, from the certificate and key that the settings name."""

import ssl
from pathlib import Path

from loopwright.kernel.errors import Invalid
from loopwright.kernel.settings import Settings

HANDSHAKE_S = 10.0


def context(settings: Settings, root: Path) -> ssl.SSLContext | None:
    """The TLS of a project's listeners, or None when they speak none.

    Raises:
        Invalid: certificate or key cannot be read, or do not belong together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_cert_chain(root / settings.tls_cert, root / settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or type(error).__name__
        message = f"the TLS certificate and key cannot be used: {why}"
        raise Invalid(message, code="bind.cert", field="tls_cert") from None
    return made
