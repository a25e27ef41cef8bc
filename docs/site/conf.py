# SPDX-License-Identifier: Apache-2.0
"""The settings of Sphinx; ``make site`` builds the site."""

from __future__ import annotations

import builtins
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from docutils.nodes import Element, Text, field_list
from pygments.lexers.special import TextLexer
from sphinx.addnodes import desc_signature, pending_xref
from sphinx.application import Sphinx
from sphinx.domains import Domain
from sphinx.environment import BuildEnvironment

import dpop

sys.path.insert(0, str(Path(__file__).parent))

from reference import home_of, public_bases

project = "dpop-toolkit"
version = release = dpop.__version__
copyright = "the authors of dpop-toolkit"  # noqa: A001 - Sphinx names it
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["**/*.json"]

nitpicky = True
add_module_names = False
autodoc_inherit_docstrings = False  # those of other libraries are written in other markups
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True

# Markdown: anchors as forges make them.
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a chapter of the changelog begins with the third level

smartquotes = False  # options such as --key stay as they are

# Only what is typed or pasted is copied: no prompts, no output.
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True

html_theme = "furo"
html_title = "dpop-toolkit"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
pygments_style = "a11y-light"  # furo brings it; of the styles of Pygments most are too pale
pygments_dark_style = "github-dark"


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, inner: Element) -> Element | None:
    """Find a name that is written without its module, or with an inner one, as docstrings and signatures do."""
    del app
    if node.get("refdomain") != "py":
        return None
    module, owner = node.get("py:module"), node.get("py:class")
    around = [name for name in (owner, module) if name]
    if module and owner:
        described = getattr(sys.modules[module], owner.partition(".")[0], None)
        around = [f"{module}.{owner}", *around, getattr(described, "__module__", module)]
    home = home_of(node["reftarget"], around)
    if home is None:
        return None
    domain = env.domains.python_domain
    if not domain.find_obj(env, "", "", home, "obj"):
        home = home.rpartition(".")[0]  # a field, which its class describes
    return domain.resolve_xref(env, node["refdoc"], env.app.builder, "obj", home, node, inner)


def is_elsewhere(app: Sphinx, domain: Domain, node: pending_xref) -> bool | None:
    """Whether a name without a page is none of ours: its library's inventory is not fetched, so nothing is linked.

    In a signature every name without a page is so, or is inner; tests hold that users can import what they need.
    """
    del app
    if domain is None or domain.name != "py":
        return None
    first = re.split(r"\W", node["reftarget"])[0]
    foreign = first != "dpop" and (hasattr(builtins, first) or find_spec(first) is not None)
    inner = re.match(r"dpop\b.*\._", node["reftarget"]) is not None
    return True if foreign or inner or "refwarn" not in node else None


def without_inner_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    """Show the public classes that a class comes from, in place of the inner ones between."""
    del app, name, options
    bases[:] = dict.fromkeys(public_bases(obj)) or [object]


def polish(app: Sphinx, tree: Element) -> None:
    """Shorten the contents of a page, which would list 900 members of classes; write dashes as they are printed."""
    del app
    for field in tree.findall(field_list):
        for dash in [text for text in field.findall(Text) if text == " -- "]:
            dash.parent.replace(dash, Text(" \N{EN DASH} "))
    for signature in tree.findall(desc_signature):
        if len(signature.get("_toc_parts", ())) > 2:
            signature["_toc_name"] = ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what stands above."""
    app.add_lexer("haproxy", TextLexer)
    app.connect("missing-reference", resolve)
    app.connect("doctree-read", polish, priority=400)  # before the contents are collected, at 500
    app.connect("warn-missing-reference", is_elsewhere)
    app.connect("autodoc-process-bases", without_inner_bases)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
