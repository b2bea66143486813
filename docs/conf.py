"""Sphinx configuration: `make docs` builds the pages into site/."""

import electret

project = "electret"
author = "The electret developers"
project_copyright = author
release = version = electret.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": False}
default_role = "code"
nitpicky = False
html_theme = "furo"
html_title = f"electret {release}"
