"""Conversion of a kamailio.cfg to options of ``wsproto-sip serve``, with notes on the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...server.management.kamailio import ModParams, SubProtocols
from ...server.management.kamailio_cfg import ModParamError, read_kamailio_cfg
from .._text import authority

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ...server.management.kamailio_cfg import CfgListen, KamailioConfig

__all__ = ["Taken", "take_kamailio_cfg"]

#: Default ports of listeners.
_PORTS: Final = {"tcp": 5060, "tls": 5061}
_SCHEMES: Final = {"tcp": "ws", "tls": "wss"}

_NAT: Final = (
    "clients are found by their connections, and kept alive as --keepalive-timeout says; "
    "--sip-mode alias writes aliases into Contact"
)
_REGISTRAR: Final = "REGISTER is answered here, or goes to --upstream"
_MSRP: Final = "the relay is there where --msrp-users is given"
_ADMISSION: Final = (
    "--path, --allowed-host, --origin, --auth-file and --max-connections decide about admission"
)

#: Parameters with an option of the same meaning and value.
_OPTIONS: Final = {
    ("registrar", "default_expires"): "sip-default-expires",
    ("registrar", "min_expires"): "sip-min-expires",
    ("registrar", "max_expires"): "sip-max-expires",
    ("registrar", "max_contacts"): "sip-max-contacts",
    ("registrar", "flow_timer"): "sip-flow-timer",
    ("msrp", "auth_min_expires"): "msrp-min-expires",
    ("msrp", "auth_max_expires"): "msrp-max-expires",
}
_MODPARAMS: Final = {
    ("outbound", "flow_token_key"): "--sip-flow-keys FILE, with hexadecimal digits in it",
    ("registrar", "realm_prefix"): "--sip-domain names the domains that are served",
    ("registrar", "gruu_enabled"): "clients that support GRUUs are given them",
    ("tls", "config"): "--tls-cert FILE and --tls-key FILE",
}
#: Notes on the other parameters of a module.
_MODULES: Final = {
    "xhttp": _ADMISSION,
    "nathelper": _NAT,
    "outbound": "--sip-mode outbound, the default, sends what is for a client over its own flow",
    "registrar": _REGISTRAR,
    "msrp": _MSRP,
}
_CALLS: Final = {
    "ws_handle_handshake": _ADMISSION,
    "event_route[xhttp:request]": _ADMISSION,
    "xhttp_reply": "requests without an upgrade are answered with 426, or by --page",
    "ws_close": "the command ws.close does so",
    "event_route[websocket:closed]": "the log tells of every end: --log-format",
    **dict.fromkeys(
        [
            *("nat_uac_test", "fix_nated_contact", "fix_nated_register", "force_rport"),
            *("add_rcv_param", "set_contact_alias", "add_contact_alias", "handle_ruri_alias"),
            *("set_alias_to_pv", "is_rfc1918"),
        ],
        _NAT,
    ),
    "fix_nated_sdp": "SDP is not changed: browsers use ICE",
    **dict.fromkeys(
        [
            *("save", "lookup", "lookup_branches", "lookup_to_dset", "registered", "unregister"),
            *("reg_fetch_contacts", "reg_free_contacts", "reg_send_reply", "add_sock_hdr"),
        ],
        _REGISTRAR,
    ),
    **dict.fromkeys(
        [
            *("event_route[msrp:frame-in]", "msrp_relay", "msrp_relay_flags", "msrp_reply"),
            *("msrp_reply_flags", "msrp_set_dst", "msrp_cmap_save", "msrp_cmap_lookup"),
            *("msrp_is_request", "msrp_is_reply"),
        ],
        _MSRP,
    ),
}
_SETTINGS: Final = {
    **dict.fromkeys(
        ["children", "tcp_children", "socket_workers"],
        "one process serves all connections; start one for each core, each with a --listen",
    ),
    "alias": "--sip-domain and --sip-name hold the names of this server",
}


class Taken:
    """A kamailio.cfg in terms of our own options.

    Args:
        config: The parsed file.

    Attributes:
        values: The values of fields of the settings.
        where: File and line of each value.
        notes: Notes on parts that are not taken over, and what to write for them.

    Raises:
        ModParamError: A parameter of the websocket module is invalid.
    """

    def __init__(self, config: KamailioConfig) -> None:
        params = ModParams.from_config(config)
        self.values: dict[str, Any] = _of_the_module(params)
        names = {"keepalive_data": "ping_application_data", "subprotocol": "sub_protocols"}
        self.where = {field: config.where.get(names.get(field, field), "") for field in self.values}
        # Texts by their beginning, so that equal ones are reported once.
        self._notes: dict[str, tuple[str, int]] = {}
        self._take_listeners(config)
        self._take_tls(config)
        for name, (text, where) in config.settings.items():
            if name == "tcp_max_connections" and text.isdecimal() and 0 < int(text) <= 1 << 20:
                self._take("max_connections", int(text), where)
            elif name in _SETTINGS:
                self._note(where, f"{name} is not taken over: {_SETTINGS[name]}")
        for param in config.modparams:
            key = (param.module, param.name)
            if (option := _OPTIONS.get(key)) is not None:
                instead = f"write --{option} {param.value}"
            elif key in _MODPARAMS or param.module in _MODULES:
                instead = _MODPARAMS.get(key) or _MODULES[param.module]
            else:
                continue
            self._note(param.where, f"{param.module}: {param.name} is not taken over: {instead}")
        for name, call in config.calls.items():
            if name in _CALLS:
                shown = name if "[" in name else f"{name}()"
                text = f"{shown} is not taken over: {_CALLS[name]}"
                self._note(call.where, text, call.count)
        self.notes = [
            *params.notes,
            *[
                f"{where}: {text}" + (f" ({count} times)" if count > 1 else "")
                for text, (where, count) in self._notes.items()
            ],
        ]

    def _take(self, field: str, value: object, where: str) -> None:
        self.values[field], self.where[field] = value, where

    def _note(self, where: str, text: str, count: int = 1) -> None:
        first, known = self._notes.get(text, (where, 0))
        self._notes[text] = (first, known + count)

    def _take_listeners(self, config: KamailioConfig) -> None:
        settings = config.settings
        enabled = settings.get("enable_tls") or settings.get("tls_enable") or ("no", "")
        tls = enabled[0].lower() in ("yes", "on", "true", "1")
        words: dict[str, None] = {}
        names: dict[str, None] = {}
        for listen in config.listens:
            for protocol in _protocols(listen, tls):
                if protocol not in _SCHEMES:
                    self._note(
                        listen.where,
                        f"listen={protocol} is not taken over: WebSockets come over tcp and tls; "
                        "SIP over others is for the --upstream",
                    )
                    continue
                port = _PORTS[protocol] if listen.port is None else listen.port
                words[f"{_SCHEMES[protocol]}://{authority(listen.host, port)}"] = None
                if listen.advertised is not None:
                    host, number = listen.advertised
                    names[host if number is None else authority(host, number)] = None
                self.where.setdefault("listen", listen.where)
        if words:
            self._take("listen", tuple(words), self.where["listen"])
        if names:
            self._take("sip_name", tuple(names), self.where["listen"])

    def _take_tls(self, config: KamailioConfig) -> None:
        for param in config.modparams:
            field = {"certificate": "tls_cert", "private_key": "tls_key"}.get(param.name)
            if param.module == "tls" and field is not None and isinstance(param.value, str):
                directory = os.path.dirname(param.where.rpartition(": line ")[0])
                self._take(field, (os.path.join(directory, param.value),), param.where)
        if "tls_cert" not in self.values:
            # A key alone is not usable; the other parameter may be in tls.cfg.
            self.values.pop("tls_key", None)


def _protocols(listen: CfgListen, tls: bool) -> tuple[str, ...]:
    """Return the protocols of a listener; without one, Kamailio uses all that it has."""
    if listen.protocol is not None:
        return (listen.protocol,)
    return ("tcp", "tls") if tls and listen.port is None else ("tcp",)


def _of_the_module(params: ModParams) -> dict[str, Any]:
    """Return the fields that the module's parameters set, including the module's defaults."""
    bits = ((SubProtocols.SIP, "sip"), (SubProtocols.MSRP, "msrp"))
    return {
        "keepalive_mechanism": params.keepalive_mechanism.name.lower(),
        "keepalive_timeout": float(params.keepalive_timeout),
        "keepalive_processes": params.keepalive_processes,
        "keepalive_interval": float(params.keepalive_interval),
        "keepalive_data": params.ping_application_data.decode("utf-8", "replace"),
        "subprotocol": tuple(name for bit, name in bits if bit in params.sub_protocols),
        "prefer": "server",
        "cors_mode": int(params.cors_mode),
    }


def take_kamailio_cfg(path: str, text: str, defines: Mapping[str, str]) -> Taken:
    """Read a kamailio.cfg, including the files that it includes.

    Args:
        path: The path of the file.
        text: The contents of the file.
        defines: Additional defines, as with Kamailio's option ``-A``.

    Raises:
        ModParamError: It is not a kamailio.cfg, or it is invalid.
        OSError: An included file cannot be read.
    """

    def opened(name: str, by: str) -> tuple[str, str] | None:
        # As Kamailio does: the path as given, then relative to the including file.
        for place in (name, os.path.join(os.path.dirname(by), name)):
            if os.path.isfile(place):
                try:
                    return place, Path(place).read_text(encoding="utf-8")
                except UnicodeDecodeError:
                    raise ModParamError(f"{place}: not UTF-8") from None
        return None

    config = read_kamailio_cfg(
        text, name=path, defines=defines, environment=os.environ, open_file=opened
    )
    return Taken(config)
