"""Default TLS contexts.

In some builds, such as Debian's, Python leaves the minimum version of TLS to OpenSSL. RFC 8996
forbids versions before 1.2.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import os

__all__ = ["client_context", "server_context"]

_OLDEST: Final = ssl.TLSVersion.TLSv1_2


def client_context(
    cafile: str | os.PathLike[str] | None = None, *, verify: bool = True
) -> ssl.SSLContext:
    """Make a client context for TLS 1.2 or later, which verifies certificates and names.

    Args:
        cafile: Certificates to trust, in a PEM file; ``None`` for the system's.
        verify: Whether to verify certificates and names.

    Raises:
        OSError: The file cannot be read, or contains no certificates.
    """
    context = _recent(ssl.create_default_context(cafile=cafile))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_context() -> ssl.SSLContext:
    """Make a server context without a certificate, for TLS 1.2 or later."""
    return _recent(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))


def _recent(context: ssl.SSLContext) -> ssl.SSLContext:
    # The system's policy may require a later version.
    if context.minimum_version < _OLDEST:
        context.minimum_version = _OLDEST
    return context
