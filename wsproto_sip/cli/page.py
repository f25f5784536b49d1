"""The page of ``wsproto-sip serve``: a SIP telephone in the browser, out of the package's files."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from ..policy.page import PagePolicy, Resource
from ..subprotocols import SIP
from .settings import SettingsError

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["page_policy"]

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
#: What the page takes from the server, as it stands in the file.
_SETTINGS: Final = '<body data-path="/" data-domain="">'


def page_policy(settings: Settings) -> PagePolicy | None:
    """The page, if it is to be there.

    Args:
        settings: The settings.

    Returns:
        The policy; None without a page.

    Raises:
        SettingsError: There is nothing for it to talk to.
    """
    possible = SIP in settings.subprotocol
    if settings.page and not possible:
        raise SettingsError("--page: sip is not among --subprotocol")
    if not (possible and settings.local if settings.page is None else settings.page):
        return None
    resources = {}
    for file in files("wsproto_sip.cli").joinpath("page").iterdir():
        kind = _TYPES[file.name.rpartition(".")[2]]
        resources[f"/{file.name}"] = Resource(kind, file.read_bytes())
    index = resources.pop("/index.html").body.decode()
    path = next((path for path in settings.path if "*" not in path), "/")
    domain = settings.sip_domain[0] if settings.sip_domain else ""
    own = f'<body data-path="{escape(path)}" data-domain="{escape(domain)}">'
    body = index.replace(_SETTINGS, own).encode()
    return PagePolicy({"/": Resource(_TYPES["html"], body), **resources})
