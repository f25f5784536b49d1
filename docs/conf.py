"""Configuration of Sphinx: ``sphinx-build -W -n docs docs/_build``."""

from __future__ import annotations

import re
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
from wsproto_sip.sip.edge import pipelines, transactions

project = "wsproto-sip"
author = "The wsproto-sip developers"
copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "figures/*.md"]
html_theme = "furo"
html_title = project
# Two hyphens start an option; they are not a dash.
smartquotes_action = "qe"
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "all"
autodoc_default_options = {"members": True}

# Names of the standard library and h11 are not resolved, so the build needs no network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!wsproto_sip\.)[a-z_][a-z0-9_]*\..+"),
    # Private classes are not in the reference.
    (r"py:class", r"(wsproto_sip\..*\.)?_[A-Z]\w*"),
]
# Several modules may define a name; links that matter are fully qualified.
suppress_warnings = ["ref.python"]
# Type variables, and names that are not public.
nitpick_ignore = [
    ("py:class", "KeySource"),
    ("py:class", "wsproto_sip.events.T"),
    ("py:obj", "wsproto_sip.events.T"),
    ("py:class", "wsproto_sip.timers.K"),
    ("py:class", "wsproto_sip.sip.rules.alias.T"),
    ("py:class", "Uri"),
    ("py:class", "HeaderValue"),
    ("py:class", "Key"),
    ("py:class", "wsproto_sip.auth.outcome.T_co"),
    ("py:class", "wsproto_sip.auth.outcome.U"),
    ("py:class", "P"),
    ("py:class", "wsproto_sip.sip.edge.parking.P"),
    ("py:class", "wsproto_sip.auth.attempt.Q"),
    ("py:class", "Command"),
    ("py:class", "WholeMessage"),
    ("py:class", "Anywhere"),
    ("py:class", "Result"),
    # From uvicorn.
    ("py:class", "Config"),
    ("py:class", "ServerState"),
]


def _plain_attributes(self: GoogleDocstring) -> list[str]:
    """Keep the first line of an attribute's text as it is: ours never begins with a type."""
    return list(self._consume_to_end())


def _plain_returns(
    self: GoogleDocstring, preprocess_types: bool = False
) -> list[tuple[str, str, list[str]]]:
    """Keep the text of a result as it is, even if there is a colon in it."""
    lines = self._dedent(self._consume_to_next_section())
    return [("", "", lines)] if lines else []


GoogleDocstring._parse_attribute_docstring = _plain_attributes
GoogleDocstring._consume_returns_section = _plain_returns


def _find_by_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: Element
) -> Element | None:
    """Resolve a name without its module, if only one object of the package has it."""
    if node.get("refdomain") != "py":
        return None
    domain = env.get_domain("py")
    found = [name for name in domain.objects if name.endswith("." + node["reftarget"])]
    if len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, contnode)


def _tell_sessions_apart(app: Sphinx, document: document) -> None:
    """Resolve a name that two classes share to the one in the package being described."""
    for node in document.findall(pending_xref):
        module = node.get("py:module") or ""
        if node.get("reftarget") == "Session" and not module.startswith("wsproto_sip.msrp"):
            node["reftarget"] = "wsproto_sip.session.session.Session"


class States(SphinxDirective):
    """The states of a session, drawn and as a table."""

    def run(self) -> list[Node]:
        """Draw the diagram and its table."""
        drawing = raw("", drawings.state_diagram(), format="html")
        return [drawing, *self.parse_text_to_nodes(drawings.markdown(drawings.transition_rows()))]


class Layers(SphinxDirective):
    """The layers of the package and their rooms, as a table."""

    def run(self) -> list[Node]:
        """Make the nodes."""
        return self.parse_text_to_nodes(drawings.markdown(drawings.layer_rows()))


class Way(SphinxDirective):
    """The way of one message, drawn: ``echo`` or ``sip``."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Draw the diagram."""
        title, way = {
            "echo": ("The way of a message that a server echoes", drawings.ECHO),
            "sip": ("The way of a SIP request from one client to another", drawings.SIP_REQUEST),
        }[self.arguments[0]]
        return [raw("", drawings.way_diagram(title, way), format="html")]


class Transactions(SphinxDirective):
    """The states of the transactions and branches of a SIP edge, as two tables."""

    def run(self) -> list[Node]:
        """Make the nodes."""
        nodes: list[Node] = []
        for title, table in (
            ("A transaction", transactions.TRANSACTION_STEPS),
            ("A branch", transactions.BRANCH_STEPS),
        ):
            text = f"**{title}**\n\n{drawings.markdown(drawings.sip_rows(table))}"
            nodes += self.parse_text_to_nodes(text)
        return nodes


class Pipelines(SphinxDirective):
    """The steps that a request to a SIP edge goes through, as two tables."""

    def run(self) -> list[Node]:
        """Make the nodes."""
        nodes: list[Node] = []
        for title, steps in (
            ("From a client", pipelines.FROM_CLIENT),
            ("From the upstream", pipelines.FROM_UPSTREAM),
        ):
            text = f"**{title}**\n\n{drawings.markdown(drawings.pipeline_rows(steps))}"
            nodes += self.parse_text_to_nodes(text)
        return nodes


class Fields(SphinxDirective):
    """The fields of a dataclass as a table."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Make the nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        rows = drawings.field_rows(getattr(import_module(module), name))
        return self.parse_text_to_nodes(drawings.markdown(rows))


class Enumeration(SphinxDirective):
    """The members of an enumeration as a table."""

    required_arguments = 1

    def run(self) -> list[Node]:
        """Make the nodes."""
        module, _, name = self.arguments[0].rpartition(".")
        rows = drawings.enum_rows(getattr(import_module(module), name))
        return self.parse_text_to_nodes(drawings.markdown(rows))


class Options(SphinxDirective):
    """The options of a command of the command line, under one heading of its help."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[Node]:
        """Make the nodes."""
        command, _, title = self.arguments[0].partition(" ")
        parts = [f":::{{program}} wsproto-sip {command}\n:::"]
        for names, text in drawings.option_rows(command, title):
            # Options and values in the text are code, and asterisks are literal.
            text = re.sub(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", r"`\1`", text.replace("*", "\\*"))
            parts.append(f":::{{option}} {names}\n{text[0].upper()}{text[1:]}\n:::")
        return self.parse_text_to_nodes("\n\n".join(parts))


class Errors(SphinxDirective):
    """The exceptions as a table."""

    def run(self) -> list[Node]:
        """Make the nodes."""
        return self.parse_text_to_nodes(drawings.markdown(drawings.error_rows()))


class Metrics(SphinxDirective):
    """The metrics as a table."""

    def run(self) -> list[Node]:
        """Make the nodes."""
        return self.parse_text_to_nodes(drawings.markdown(drawings.metric_rows()))


def setup(app: Sphinx) -> None:
    """Register the directives; called by Sphinx."""
    app.add_directive("states", States)
    app.add_directive("layers", Layers)
    app.add_directive("way", Way)
    app.add_directive("fields", Fields)
    app.add_directive("enum", Enumeration)
    app.add_directive("options", Options)
    app.add_directive("errors", Errors)
    app.add_directive("metrics", Metrics)
    app.add_directive("transactions", Transactions)
    app.add_directive("pipelines", Pipelines)
    app.connect("doctree-read", _tell_sessions_apart)
    app.connect("missing-reference", _find_by_name)
