"""The base class of every exception that this package raises.

``except WsprotoSipError`` catches the errors that this package detects and nothing else. An
exception also derives from a standard class if callers expect that one::

    WsprotoSipError
    ├── ProtocolError
    │   ├── RemoteProtocolError
    │   │   ├── AuthenticationError
    │   │   ├── MsrpParseError
    │   │   └── ReassemblyError
    │   └── LocalProtocolError
    ├── BusError
    ├── CapacityError
    ├── ClientDisconnected (OSError)
    ├── CommandError
    ├── ConnectionClosedError
    ├── DigestError (ValueError)
    ├── EngineError
    ├── EventHookError
    ├── HandshakeRejected
    ├── HookError
    ├── InflateError
    ├── Mistake (ValueError)
    ├── ModParamError (ValueError)
    ├── MsrpUriError (ValueError)
    ├── ParseFailed
    ├── ProxyError (ConnectionError)
    ├── RecordError (ValueError)
    ├── Refused
    ├── SettingsError (ValueError)
    ├── SipParseError (ValueError)
    ├── SipValueError (ValueError)
    ├── UnknownConnectionError (LookupError)
    └── UnusableAccount (ValueError)

Arguments of a wrong type or value raise ``TypeError`` and ``ValueError`` as everywhere in Python.
"""

from __future__ import annotations

__all__ = ["WsprotoSipError"]


class WsprotoSipError(Exception):
    """The base class of every exception that this package raises."""
