"""The parameters of Kamailio's ``websocket`` module, from Python or a kamailio.cfg.

Values with which the module refuses to start are refused here. If it silently falls back to a
default, so does this code, but with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntFlag

from ...policy.cors import CorsMode, CorsPolicy
from ...policy.decision import Policy
from ...policy.subprotocol import SubprotocolPolicy
from ...session.keepalive import KeepaliveConfig, Mechanism
from ...subprotocols import MSRP, SIP
from .kamailio_cfg import KamailioConfig, ModParamError, read_kamailio_cfg

__all__ = [
    "DEFAULT_PING_DATA",
    "ModParamError",
    "ModParams",
    "SubProtocols",
]

#: The default payload of keep-alive frames; the module sends its Server header.
DEFAULT_PING_DATA = b"wsproto-sip"

_MAX_PING_DATA = 125


class SubProtocols(IntFlag):
    """The bits of ``sub_protocols``."""

    SIP = 1
    MSRP = 2


@dataclass(frozen=True, slots=True)
class _Number:
    """An integer parameter.

    Args:
        low: The lowest value.
        high: The highest value.
        default: The default.
        falls_back: Whether a value out of range becomes the default; otherwise the module refuses
            to start.
    """

    low: int
    high: int
    default: int
    falls_back: bool = True


_NUMBERS = {
    "keepalive_mechanism": _Number(0, 3, Mechanism.PING),
    "keepalive_timeout": _Number(1, 3600, 180),
    "keepalive_processes": _Number(1, 16, 1),
    "keepalive_interval": _Number(1, 60, 1),
    "sub_protocols": _Number(1, 3, 3, falls_back=False),
    "cors_mode": _Number(0, 2, CorsMode.NONE, falls_back=False),
    "timer_interval": _Number(1, 60, 1),
    "rm_delay_interval": _Number(1, 60, 5),
    "verbose_list": _Number(0, 1, 0),
}
_WITHOUT_EFFECT = {
    "timer_interval": "deadlines are kept when they are due",
    "rm_delay_interval": "connections leave the table when they end",
    "verbose_list": "the command ws.dump shows the table",
    "event_callback": "Endpoint.on_closed() and the log report ends",
}
_STRINGS = ("ping_application_data", "event_callback")


@dataclass(frozen=True, slots=True)
class ModParams:
    """The module's parameters, validated.

    Args:
        keepalive_mechanism: The keep-alive mechanism.
        keepalive_timeout: Seconds without use before a connection is kept alive.
        keepalive_processes: Into how many parts the connections are split for keep-alive.
        keepalive_interval: Seconds between two passes over a part.
        ping_application_data: The payload of Pings and Pongs, 1 to 125 bytes.
        sub_protocols: The enabled sub-protocols.
        cors_mode: The kind of Access-Control-Allow-Origin to send.
        timer_interval: Seconds between two runs of the module's timer; accepted without effect.
        rm_delay_interval: Seconds for which the module keeps ended connections; accepted without
            effect.
        verbose_list: Whether the module logs its table; accepted without effect.
        event_callback: The script function called for events; accepted without effect.
        notes: Values that were replaced by defaults, and parameters without effect.
    """

    keepalive_mechanism: Mechanism = Mechanism.PING
    keepalive_timeout: int = 180
    keepalive_processes: int = 1
    keepalive_interval: int = 1
    ping_application_data: bytes = DEFAULT_PING_DATA
    sub_protocols: SubProtocols = SubProtocols.SIP | SubProtocols.MSRP
    cors_mode: CorsMode = CorsMode.NONE
    timer_interval: int = 1
    rm_delay_interval: int = 5
    verbose_list: int = 0
    event_callback: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_modparams(
        cls, params: Mapping[str, int | str | bytes], *, msrp: bool = True
    ) -> ModParams:
        """Validate parameters as the module does.

        Args:
            params: Values by the module's names. Only ``ping_application_data`` may be ``bytes``.
            msrp: Whether MSRP is available; without it, ``sub_protocols`` defaults to 1 and may not
                include it.

        Raises:
            ModParamError: A name is unknown, a value has the wrong type, ``sub_protocols`` or
                ``cors_mode`` is out of range, or MSRP is enabled without being available.
        """
        return cls._checked(params, {}, msrp=msrp)

    @classmethod
    def _checked(
        cls, params: Mapping[str, int | str | bytes], where: Mapping[str, str], *, msrp: bool
    ) -> ModParams:
        """Validate parameters; messages include their places, as far as they are known."""
        at = {name: f"{where[name]}: " if name in where else "" for name in params}
        notes: list[str] = []
        numbers: dict[str, int] = {}
        known = [*_NUMBERS, *_STRINGS]
        for name in params:
            if name not in known:
                raise ModParamError(
                    f"{at[name]}{name[:80]}: unknown parameter; known are {', '.join(known)}"
                )
        for name, form in _NUMBERS.items():
            default = form.default if name != "sub_protocols" or msrp else SubProtocols.SIP
            numbers[name] = _number(name, params.get(name, default), form, at.get(name, ""), notes)
        if numbers["sub_protocols"] & SubProtocols.MSRP and not msrp:
            value = numbers["sub_protocols"]
            raise ModParamError(
                f"{at['sub_protocols']}sub_protocols = {value}: 2 (msrp) requires MSRP; "
                "only 1 is possible"
            )
        data = params.get("ping_application_data", DEFAULT_PING_DATA)
        callback = params.get("event_callback", "")
        if not isinstance(data, str | bytes):
            raise ModParamError(
                f"{at['ping_application_data']}ping_application_data = {data!r}: must be a string"
            )
        if not isinstance(callback, str):
            raise ModParamError(
                f"{at['event_callback']}event_callback = {callback!r}: must be a string"
            )
        raw = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
        if not 1 <= len(raw) <= _MAX_PING_DATA:
            notes.append(
                f"{at['ping_application_data']}ping_application_data of {len(raw)} bytes is "
                f"not 1 to {_MAX_PING_DATA}: {DEFAULT_PING_DATA.decode('ascii')} is used"
            )
            raw = DEFAULT_PING_DATA
        for name, reason in _WITHOUT_EFFECT.items():
            if name in params:
                notes.append(f"{at[name]}{name} has no effect here: {reason}")
        return cls(
            keepalive_mechanism=Mechanism(numbers["keepalive_mechanism"]),
            keepalive_timeout=numbers["keepalive_timeout"],
            keepalive_processes=numbers["keepalive_processes"],
            keepalive_interval=numbers["keepalive_interval"],
            ping_application_data=raw,
            sub_protocols=SubProtocols(numbers["sub_protocols"]),
            cors_mode=CorsMode(numbers["cors_mode"]),
            timer_interval=numbers["timer_interval"],
            rm_delay_interval=numbers["rm_delay_interval"],
            verbose_list=numbers["verbose_list"],
            event_callback=callback,
            notes=tuple(notes),
        )

    @classmethod
    def from_kamailio_cfg(cls, text: str, *, defines: Mapping[str, str] | None = None) -> ModParams:
        """Read the parameters from a kamailio.cfg.

        Args:
            text: The contents of the file; included files are left out, with a note.
            defines: See :func:`~wsproto_sip.server.management.kamailio_cfg.read_kamailio_cfg`.

        Returns:
            The parameters, with the reader's notes before their own.

        Raises:
            ModParamError: See the reader, and :meth:`from_modparams`.
        """
        return cls.from_config(read_kamailio_cfg(text, defines=defines))

    @classmethod
    def from_config(cls, config: KamailioConfig) -> ModParams:
        """Take the parameters from a parsed kamailio.cfg.

        Args:
            config: The parsed file.

        Returns:
            The parameters, with the reader's notes before their own.

        Raises:
            ModParamError: See :meth:`from_modparams`; the message includes file and line.
        """
        params = cls._checked(config.parameters, config.where, msrp=config.msrp)
        return replace(params, notes=config.notes + params.notes)

    def keepalive_config(self, *, answer_timeout: float = 20.0) -> KeepaliveConfig:
        """Return the keep-alive configuration of each connection.

        Args:
            answer_timeout: Seconds that the peer has to answer a Ping. The module has no parameter
                for it: it ends the connection the next time it finds it unused for
                ``keepalive_timeout``, and by then has counted its own Ping as use.

        Raises:
            ValueError: ``answer_timeout`` is out of range.
        """
        return KeepaliveConfig(
            mechanism=self.keepalive_mechanism,
            interval=float(self.keepalive_timeout),
            answer_timeout=answer_timeout,
            application_data=self.ping_application_data,
        )

    def policies(self) -> list[Policy]:
        """Return the module's own policies: sub-protocol (``sip`` first) and CORS.

        Put policies on port, target, Host, Origin and authentication, which the module leaves to
        the script around it, before these.
        """
        names = ((SubProtocols.SIP, SIP), (SubProtocols.MSRP, MSRP))
        enabled = [name for bit, name in names if bit in self.sub_protocols]
        return [SubprotocolPolicy(enabled, server_preference=True), CorsPolicy(self.cors_mode)]


def _number(
    name: str, value: int | str | bytes, form: _Number, where: str, notes: list[str]
) -> int:
    span = f"{form.low} to {form.high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModParamError(f"{where}{name} = {value!r:.100}: must be an integer, {span}")
    if form.low <= value <= form.high:
        return value
    if not form.falls_back:
        raise ModParamError(f"{where}{name} = {value}: must be {span}")
    notes.append(f"{where}{name} = {value} is not {span}: {form.default:d} is used")
    return form.default
