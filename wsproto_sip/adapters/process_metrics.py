"""Metrics of this process and its Python, named as by Prometheus' own clients.

They are read from ``/proc``. On systems without it, some are omitted.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from typing import Final

from ..server.management.prometheus import Family

try:
    import resource as limits
except ImportError:  # pragma: no cover  # on Windows, which has no /proc either
    limits = None  # type: ignore[assignment]

__all__ = ["process_families"]

_STAT: Final = "/proc/self/stat"
_FDS: Final = "/proc/self/fd"


def process_families() -> list[Family]:
    """Return the current metrics."""
    major, minor, patch = platform.python_version_tuple()
    info = Family("python_info", "gauge", "Python of this process.")
    info.add(
        1,
        implementation=platform.python_implementation(),
        version=platform.python_version(),
        major=major,
        minor=minor,
        patchlevel=patch,
    )
    found = [
        info,
        Family("process_cpu_seconds_total", "counter", "CPU time in seconds.", time.process_time()),
        *_memory(),
    ]
    collected = Family("python_gc_objects_collected_total", "counter", "Objects collected.")
    stuck = Family(
        "python_gc_objects_uncollectable_total", "counter", "Objects that could not be collected."
    )
    runs = Family("python_gc_collections_total", "counter", "Collections.")
    for generation, counts in enumerate(gc.get_stats()):
        collected.add(counts["collected"], generation=generation)
        stuck.add(counts["uncollectable"], generation=generation)
        runs.add(counts["collections"], generation=generation)
    return [*found, collected, stuck, runs]


def _memory() -> list[Family]:
    """Return the metrics from the system: memory, start and descriptors."""
    try:
        with open(_STAT, "rb") as file:
            # The name of the program, in brackets, may contain anything.
            fields = file.read().rpartition(b")")[2].split()
        with open("/proc/stat", "rb") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith(b"btime "))
        descriptors = len(os.listdir(_FDS))
        started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        most = limits.getrlimit(limits.RLIMIT_NOFILE)[0]
    except (OSError, ValueError, StopIteration):
        return []
    return [
        Family("process_virtual_memory_bytes", "gauge", "Virtual memory.", int(fields[20])),
        Family("process_resident_memory_bytes", "gauge", "Resident memory.", resident),
        Family("process_start_time_seconds", "gauge", "Start, in Unix time.", started),
        Family("process_open_fds", "gauge", "Open descriptors.", descriptors),
        Family("process_max_fds", "gauge", "Most descriptors.", most),
    ]
