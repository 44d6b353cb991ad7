"""Who may come in: loopback names only, and no page of another site; pure, so that every listener asks the same."""

import re

_HOST = re.compile(r"(localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d{1,5})?", re.IGNORECASE)
_SITES = ("none", "same-origin")


def refusal(host: str | None, origin: str | None, fetch_site: str | None) -> str | None:
    """Why a request must not be answered, or None when it may be; from its Host, Origin and Sec-Fetch-Site."""
    if host is not None and not _HOST.fullmatch(host):
        return "this server answers to loopback names such as 127.0.0.1 and localhost only"
    if origin is not None and (host is None or origin.lower() not in (f"http://{host.lower()}", f"https://{host.lower()}")):
        return "a page of another origin may not use this server"
    if fetch_site is not None and fetch_site.lower() not in _SITES:
        return "a page of another site may not use this server"
    return None
