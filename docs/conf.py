"""Sphinx configuration: MyST pages, the Reference from docstrings, furo's theme."""

import re

import optax_wsd

project = "optax-wsd"
author = "The optax-wsd authors"
copyright = author
release = optax_wsd.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
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
html_title = "optax-wsd"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

SECTION = re.compile(r"(Args|Returns|Raises|Example|References):$")


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


def setup(app):
    app.connect("autodoc-process-docstring", literal_blocks, priority=1)
