"""The modules of the page of ``wsproto-sip serve``, each with its own tests under Node."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import wsproto_sip

MODULES = Path(wsproto_sip.__file__).parent / "cli" / "serve" / "static"
TESTS = Path(__file__).with_name("page")
NODE = shutil.which("node")

#: The first version with CustomEvent, Web Crypto and ``node --test`` as these tests use them.
_NODE_VERSION = 20

#: What has no test under Node: names alone, and what the browser tests show.
_OTHERS = {"names", "page"}


def missing() -> str | None:
    """Return the requirement of these tests that is missing on this machine, or ``None``."""
    if NODE is None:
        return "no node on the PATH"
    done = subprocess.run([NODE, "--version"], check=True, capture_output=True, text=True)
    if int(done.stdout.lstrip("v").partition(".")[0]) < _NODE_VERSION:
        return f"node is older than {_NODE_VERSION}"
    return None


NAMES = sorted(path.name.removesuffix(".test.mjs") for path in TESTS.glob("*.test.mjs"))
MISSING = missing()


def test_each_module_has_tests() -> None:
    modules = {path.stem for path in MODULES.glob("*.mjs")}
    assert set(NAMES) == modules - _OTHERS


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
@pytest.mark.parametrize("name", NAMES)
def test_under_node(name: str) -> None:
    done = subprocess.run(
        [str(NODE), "--test", str(TESTS / f"{name}.test.mjs")],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    # An empty file passes too.
    counted = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert counted is not None
    assert int(counted[1]) > 0
