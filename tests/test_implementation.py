"""The choice of the engine, and that the environment can force the pure one."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

import wsproto_sip
from tests._wire import masked
from wsproto_sip import _implementation, _masking
from wsproto_sip._inbox import Inbox
from wsproto_sip._parser import FrameParser

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    _implementation.choose(os.environ)


def joined(head: bytes, payload: bytes, key: bytes) -> bytes:
    return head + masked(payload, key)


inbox = type("KernelInbox", (Inbox,), {})


def pretend(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    kernel = ModuleType("wsproto_sip._kernel")
    kernel.__file__ = file
    kernel.mask = masked  # type: ignore[attr-defined]
    kernel.masked_frame = joined  # type: ignore[attr-defined]
    kernel.KernelInbox = inbox  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wsproto_sip._kernel", kernel)
    monkeypatch.setattr(wsproto_sip, "_kernel", kernel, raising=False)


def test_implementation_is_named() -> None:
    assert wsproto_sip.implementation == _implementation.NAME
    assert wsproto_sip.implementation in ("compiled", "pure")


@pytest.mark.usefixtures("restored")
def test_compiled_kernel_is_used_unless_the_environment_forbids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, "_kernel.so")
    compiled = ModuleType("wsproto_sip._compiled")
    compiled.KernelParser = kind = type("KernelParser", (FrameParser,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wsproto_sip._compiled", compiled)
    assert _implementation.choose({}) == ("compiled", kind, inbox)
    assert (_masking._plugged_in, _masking.joining) == ([masked], [joined])
    assert _implementation.choose({"WSPROTO_SIP_PURE": "0"}) == ("compiled", kind, inbox)
    assert _implementation.choose({"WSPROTO_SIP_PURE": "1"}) == ("pure", FrameParser, Inbox)
    assert (_masking._plugged_in, _masking.joining) == ([], [])


@pytest.mark.usefixtures("restored")
def test_uncompiled_kernel_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "_kernel.py")
    assert _implementation.choose({}) == ("pure", FrameParser, Inbox)


@pytest.mark.usefixtures("restored")
def test_pure_engine_is_used_without_librt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "wsproto_sip._kernel", None)
    monkeypatch.delattr(wsproto_sip, "_kernel", raising=False)
    assert _implementation.choose({}) == ("pure", FrameParser, Inbox)


def test_process_can_be_forced_to_be_pure() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import wsproto_sip; print(wsproto_sip.implementation)"],
        env={**os.environ, "WSPROTO_SIP_PURE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "pure\n"
