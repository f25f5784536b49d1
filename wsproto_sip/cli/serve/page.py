"""The page of ``wsproto-sip serve``: a SIP telephone in the browser, from the package's files."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ...events import Request
from ...policy.decision import RequestContext
from ...policy.page import PagePolicy, Resource
from ...subprotocols import SIP
from .settings import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...policy.decision import Policy
    from .settings import Settings

__all__ = ["page_policy", "page_url", "telephone"]

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
#: The placeholders in the file that the server replaces.
_SETTINGS: Final = '<body data-path="/" data-domain="">'


def telephone(path: str = "/", domain: str = "") -> dict[str, Resource]:
    """Return the files of the telephone, for a :class:`~wsproto_sip.policy.page.PagePolicy`.

    Args:
        path: The target of its WebSocket connections.
        domain: The domain of its users; empty for the page's host.

    Returns:
        The files by path; the page is at ``/``.
    """
    resources = {}
    for file in files("wsproto_sip.cli.serve").joinpath("static").iterdir():
        kind = _TYPES[file.name.rpartition(".")[2]]
        resources[f"/{file.name}"] = Resource(kind, file.read_bytes())
    index = resources.pop("/index.html").body.decode()
    own = f'<body data-path="{escape(path)}" data-domain="{escape(domain)}">'
    return {"/": Resource(_TYPES["html"], index.replace(_SETTINGS, own).encode()), **resources}


def page_policy(settings: Settings, admission: Sequence[Policy] = ()) -> PagePolicy | None:
    """Return the page, if it is enabled.

    Args:
        settings: The settings.
        admission: The policies of Host and Origin. A page is served only under names from which
            they let its connections in.

    Returns:
        The policy, or ``None`` without a page.

    Raises:
        SettingsError: The server offers nothing that the page can use.
    """
    possible = SIP in settings.subprotocol
    if settings.page and not possible:
        raise SettingsError("--page: sip is not among --subprotocol")
    if not (possible and settings.local if settings.page is None else settings.page):
        return None
    path = next((path for path in settings.path if "*" not in path), "/")
    pages = telephone(path, settings.sip_domain[0] if settings.sip_domain else "")
    return PagePolicy(pages, admission=admission)


def page_url(page: PagePolicy | None, candidates: Iterable[str]) -> str | None:
    """Return the URL at which a browser can use the page, or ``None``.

    Args:
        page: The page, or ``None``.
        candidates: URLs and origins that may lead to the server, the best first. Others than
            those of ws, wss, http and https are passed over.
    """
    if page is None:
        return None
    for candidate in candidates:
        scheme, host = urlsplit(candidate)[:2]
        if not host or scheme not in ("ws", "wss", "http", "https"):
            continue
        secure = scheme in ("wss", "https")
        if page.is_admitted(RequestContext(Request(host, "/"), secure=secure, upgrade=False)):
            return f"http{'s' if secure else ''}://{host}/"
    return None
