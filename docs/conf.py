"""How the documentation is built: ``sphinx-build -W -n docs docs/_build``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from wsproto_sip import __version__

project = "wsproto-sip"
author = "The wsproto-sip developers"
copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": True}

# What the standard library and h11 document is not looked up: the build needs no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!wsproto_sip\.)[a-z_][a-z0-9_]*\..+")]
