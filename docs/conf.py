"""How the documentation is built: ``sphinx-build -W -n docs docs/_build``."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from docutils.nodes import raw
from sphinx.addnodes import pending_xref
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from docutils.nodes import Element, Node, document
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import drawings

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
# Two modules may each have a name; where a link is meant, it says which.
suppress_warnings = ["ref.python"]
# Type variables and what is not for users.
nitpick_ignore = [
    ("py:class", "KeySource"),
    ("py:class", "wsproto_sip.events.T"),
    ("py:obj", "wsproto_sip.events.T"),
    ("py:class", "wsproto_sip.timers.K"),
    ("py:class", "wsproto_sip.sip.alias.T"),
    ("py:class", "Uri"),
    ("py:class", "HeaderValue"),
    ("py:class", "Command"),
    ("py:class", "Result"),
    # uvicorn's.
    ("py:class", "Config"),
    ("py:class", "ServerState"),
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


def _tell_sessions_apart(app: Sphinx, document: document) -> None:
    """Takes a name that two classes have for the one that is not msrp's, outside of msrp."""
    for node in document.findall(pending_xref):
        module = node.get("py:module") or ""
        if node.get("reftarget") == "Session" and not module.startswith("wsproto_sip.msrp"):
            node["reftarget"] = "wsproto_sip.session.Session"


class States(SphinxDirective):
    """The states of a session, drawn and as a table."""

    def run(self) -> list[Node]:
        """Sphinx calls this."""
        drawing = raw("", drawings.state_diagram(), format="html")
        return [drawing, *self.parse_text_to_nodes(drawings.markdown(drawings.transition_rows()))]


class Fields(SphinxDirective):
    """The fields of a dataclass as a table."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Sphinx calls this."""
        module, _, name = self.arguments[0].rpartition(".")
        rows = drawings.field_rows(getattr(import_module(module), name))
        return self.parse_text_to_nodes(drawings.markdown(rows))


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_directive("states", States)
    app.add_directive("fields", Fields)
    app.connect("doctree-read", _tell_sessions_apart)
    app.connect("missing-reference", _find_by_name)
