"""The agent of the page of ``wsproto-sip serve`` in Node, with what no browser says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import wsproto_sip

FILES = Path(wsproto_sip.__file__).parent / "cli" / "page"
PROGRAM = Path(__file__).with_name("page_agent.mjs")
NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="no node on the PATH")


def test_what_others_say_of_themselves(tmp_path: Path) -> None:
    # Without this, Node takes the scripts for CommonJS.
    shutil.copytree(FILES, tmp_path, dirs_exist_ok=True)
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    done = subprocess.run(
        [str(NODE), str(PROGRAM), str(tmp_path)], check=True, capture_output=True, timeout=60
    )
    found = json.loads(done.stdout)
    # A quoted name is nobody's address.
    assert found["addresses"] == [
        {"uri": "sip:bob@sip.test", "tag": "1"},
        {"uri": "sip:mallory@sip.test", "tag": "1"},
        {"uri": "sip:mallory@sip.test", "tag": "1"},
        {"uri": "sip:bob@sip.test", "tag": None},
        {"uri": "sip:bob@sip.test", "tag": "1"},
    ]
    assert found["users"] == ["b b", "%FF", "tel:+1"]
    # A registrar may grant less time than was asked for.
    assert found["refreshed"] == [120 * 750, 60 * 750, 600 * 750]
    # A connection that was still being opened does not register after all.
    assert (found["closed"], found["state"]) == (3, "unregistered")
