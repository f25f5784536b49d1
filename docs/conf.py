"""How the documentation is built: ``sphinx-build -W -n docs docs/_build``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.ext.napoleon.docstring import GoogleDocstring

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

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
autodoc_default_options = {"members": True}

# What the standard library and h11 document is not looked up: the build needs no network.
nitpick_ignore_regex = [(r"py:.*", r"(?!wsproto_sip\.)[a-z_][a-z0-9_]*\..+")]
# Type variables and what is not for users.
nitpick_ignore = [
    ("py:class", "KeySource"),
    ("py:class", "wsproto_sip.events.T"),
    ("py:obj", "wsproto_sip.events.T"),
    ("py:class", "wsproto_sip.sip.alias.T"),
    ("py:class", "Uri"),
    ("py:class", "HeaderValue"),
]


def _plain_attributes(self: GoogleDocstring) -> list[str]:
    """Keeps the first line of an attribute's text as it is: ours never begins with a type."""
    return list(self._consume_to_end())


GoogleDocstring._parse_attribute_docstring = _plain_attributes


def _find_by_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Lets a name of the package be referred to without its module, if no other is called so."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith("." + node["reftarget"])]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("missing-reference", _find_by_name)
