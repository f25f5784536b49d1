"""Several certificates on one socket, selected by the name that the client sends (RFC 6066 §3).

Theory of operation: each certificate has a context of its own. The first context begins each
handshake, and is replaced by the one whose certificate names the server that the client asks for:
by that name, or by a wildcard in place of its first label (RFC 9525 §6.3). If none matches,
or the client sends no name, the first context stays.

Python reveals the names in a certificate only to a peer that verifies it, so they are parsed here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._tls import server_context

if TYPE_CHECKING:
    import os

__all__ = ["certificate_context", "server_names"]

_BEGIN: Final = "-----BEGIN CERTIFICATE-----"
_END: Final = "-----END CERTIFICATE-----"
#: Tags of DER (X.690 §8): a sequence, the extensions of a certificate, and a name of the DNS.
_SEQUENCE: Final = 0x30
_EXTENSIONS: Final = 0xA3
_DNS_NAME: Final = 0x82
#: The object identifier of subjectAltName (RFC 5280 §4.2.1.6), in DER.
_ALT_NAME: Final = b"\x06\x03\x55\x1d\x11"


def _parts(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield tag, content and the whole encoding of each DER element.

    Raises:
        ValueError: It is truncated, or has a form that certificates do not use.
    """
    at = 0
    while at < len(data):
        begin, tag = at, data[at]
        if at + 2 > len(data) or tag & 0x1F == 0x1F:
            raise ValueError("not DER")
        size, at = data[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            if not 0 < digits <= 4 or at + digits > len(data):
                raise ValueError("not DER")
            size, at = int.from_bytes(data[at : at + digits], "big"), at + digits
        if at + size > len(data):
            raise ValueError("not DER")
        yield tag, data[at : at + size], data[begin : at + size]
        at += size


def _only(data: bytes, tag: int) -> bytes:
    """Return the content of the first element, which must have the given tag."""
    for found, content, _ in _parts(data):
        if found == tag:
            return content
        break
    raise ValueError("not a certificate")


def _names_in(der: bytes) -> list[str]:
    fields = _only(_only(der, _SEQUENCE), _SEQUENCE)
    names: list[str] = []
    for tag, content, _ in _parts(fields):
        if tag != _EXTENSIONS:
            continue
        for _, extension, _ in _parts(_only(content, _SEQUENCE)):
            elements = list(_parts(extension))
            if elements and elements[0][2] == _ALT_NAME:
                # The value is the last element; the critical flag may come before it.
                alternatives = _only(elements[-1][1], _SEQUENCE)
                names += [
                    name.decode("ascii").lower()
                    for kind, name, _ in _parts(alternatives)
                    if kind == _DNS_NAME
                ]
    return names


def server_names(path: str | os.PathLike[str]) -> list[str]:
    """Return the DNS names of a certificate, in lower case.

    Args:
        path: A PEM file; its first certificate is used.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file contains no certificate, or an invalid one.
    """
    text = Path(path).read_text(encoding="latin-1")
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError("the file contains no certificate")
    return _names_in(ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)]))


def certificate_context(
    certificates: Sequence[tuple[str | os.PathLike[str], str | os.PathLike[str] | None]],
    *,
    make: Callable[[], ssl.SSLContext] = server_context,
    password: Callable[[], str] | None = None,
) -> ssl.SSLContext:
    """Make a server context with several certificates.

    Args:
        certificates: The files of each chain and of its key; ``None`` if the key is in the same
            file. The first is for clients that send no name, or a name without a certificate.
        make: Makes a context; called once per certificate, so that all are alike. By default for
            TLS 1.2 or later, without client certificates.
        password: Returns the password of an encrypted private key.

    Returns:
        The context, to be used like any other.

    Raises:
        OSError: A file cannot be read, or a key does not belong to its certificate.
        ValueError: ``certificates`` is empty, or one of several contains no DNS name.
    """
    if not certificates:
        raise ValueError("certificates must not be empty")
    contexts: list[ssl.SSLContext] = []
    by_name: dict[str, ssl.SSLContext] = {}
    for path, key in certificates:
        context = make()
        context.load_cert_chain(path, key, password)
        if len(certificates) > 1:
            try:
                names = server_names(path)
            except ValueError as exc:
                raise ValueError(f"{path!s:.200}: {exc}") from None
            if contexts and not names:
                raise ValueError(f"{path!s:.200}: the certificate contains no DNS name")
            for name in names:
                by_name.setdefault(name, context)
        contexts.append(context)

    def choose(connection: Any, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            asked = name.lower()
            wildcard = f"*.{asked.partition('.')[2]}"
            found = by_name.get(asked) or by_name.get(wildcard)
            if found is not None:
                connection.context = found

    first = contexts[0]
    if len(contexts) > 1:
        first.sni_callback = choose
    return first
