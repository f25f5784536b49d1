from __future__ import annotations

import subprocess
import sys

import wsproto_sip.sip as sip


def test_every_name_is_there() -> None:
    assert sorted(sip.__all__, key=lambda name: (name.lower(), name)) == sorted(
        set(sip.__all__), key=lambda name: (name.lower(), name)
    )
    for name in sip.__all__:
        assert getattr(sip, name) is not None


def test_nothing_else_is_loaded() -> None:
    code = (
        "import sys, wsproto_sip; before = set(sys.modules); import wsproto_sip.sip;"
        "new = set(sys.modules) - before;"
        "print([n for n in sorted(new) if n.startswith('wsproto_sip')"
        " and not n.startswith('wsproto_sip.sip')],"
        " sorted(new & {'socket', 'ssl', 'asyncio', 'threading', 'logging', 'datetime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
