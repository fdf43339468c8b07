"""Sphinx configuration: MyST pages, the Reference from docstrings, furo's theme."""

import re
from pathlib import Path

import optax_wsd

project = "optax-wsd"
author = "The optax-wsd authors"
copyright = author
release = optax_wsd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
default_role = "py:obj"
highlight_language = "none"  # of the docstrings' equations and timelines
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_typehints = "none"  # the docstrings say units and ranges, in one line each
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_use_rtype = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "optax-wsd"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(Path(__file__).with_name("scorer.js"))
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

SECTION = re.compile(r"(Args|Returns|Raises|Example|References):$")
ARXIV = re.compile(r"(?<![/`])arXiv:(\d{4}\.\d{5})")
NAME = re.compile(r"(?<![`}])`(?:optax_wsd\.)?((?:shapes\.|laws\.)?(\w+))(?:\(\))?`")
FENCED = re.compile(r"^```.*?^```$", re.M | re.S)
PUBLIC = {
    *optax_wsd.__all__,
    *(f"shapes.{name}" for name in optax_wsd.shapes.__all__),
    *(f"laws.{name}" for name in optax_wsd.laws.__all__),
} - {"__version__", "laws", "shapes"}


def literal_blocks(app, what, name, obj, options, lines):
    """Shows the indented equations and timelines of a docstring as they stand."""
    contract = next((i for i, line in enumerate(lines) if SECTION.match(line)), None)
    shown, indented = [], False
    for line in lines[:contract]:
        if line and indented != line.startswith("    "):
            indented = not indented
            shown += ["::", ""] if indented else []
        shown.append(line)
    lines[:contract] = shown


def link_pages(app, page, source):
    """Links public names to the Reference, and papers to arXiv, outside of code."""

    def link(text):
        text = ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
        return NAME.sub(
            lambda m: f"{{obj}}`{m[2]} <optax_wsd.{m[1]}>`" if m[1] in PUBLIC else m[0],
            text,
        )

    prose, fenced = FENCED.split(source[0]), FENCED.findall(source[0])
    linked = [link(part) for part in prose]
    source[0] = "".join(a + b for a, b in zip(linked, [*fenced, ""], strict=True))


def link_papers(app, what, name, obj, options, lines):
    """Links papers to arXiv in docstrings."""
    to = r"`arXiv:\1 <https://arxiv.org/abs/\1>`__"
    lines[:] = [ARXIV.sub(to, line) for line in lines]


def setup(app):
    app.connect("source-read", link_pages)
    app.connect("autodoc-process-docstring", link_papers)
    app.connect("autodoc-process-docstring", literal_blocks, priority=1)
