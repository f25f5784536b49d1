"""Many connections: one table, admission, keep-alive, management commands and statistics."""

from __future__ import annotations

from .config import EndpointConfig, subprotocol_profiles
from .endpoint import Endpoint
from .events import (
    AdmissionPending,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)
from .statistics import Statistics

__all__ = [
    "AdmissionPending",
    "CapacityError",
    "Closed",
    "Connect",
    "Endpoint",
    "EndpointConfig",
    "Opened",
    "Output",
    "Statistics",
    "UnknownConnectionError",
    "Writable",
    "subprotocol_profiles",
]
