"""Metrics of this process and its Python."""

from __future__ import annotations

import os
import re

import pytest

from wsproto_sip.adapters import process_metrics
from wsproto_sip.adapters.process_metrics import process_families
from wsproto_sip.server.management.prometheus import render


def values() -> dict[str, float]:
    found = {}
    for line in render(process_families()).splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            found[name] = float(value)
    return found


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_metrics_come_from_proc() -> None:
    found = values()
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_virtual_memory_bytes"] > found["process_resident_memory_bytes"]
    assert found["process_start_time_seconds"] > 1_000_000_000
    assert 2 < found["process_open_fds"] < found["process_max_fds"]
    assert any(re.match(r"python_info\{implementation=", name) for name in found)
    assert 'python_gc_collections_total{generation="0"}' in found


def test_metrics_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "_STAT", "/nowhere")
    found = values()
    assert "process_open_fds" not in found
    assert "process_cpu_seconds_total" in found
