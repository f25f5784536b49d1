"""What importing the face of the SIP part costs."""

from __future__ import annotations

import subprocess
import sys


def test_importing_sip_loads_nothing_of_the_outside_world() -> None:
    code = (
        "import sys, wsproto_sip; before = set(sys.modules); import wsproto_sip.sip;"
        "new = set(sys.modules) - before;"
        "print(sorted(n for n in new if n.startswith('wsproto_sip.adapters')),"
        " sorted(new & {'socket', 'ssl', 'asyncio', 'threading', 'logging', 'datetime'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
