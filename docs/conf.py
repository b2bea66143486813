"""Sphinx configuration: `make docs` builds the pages into site/."""

import dataclasses
import re

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
exclude_patterns = ["pictures/*.py"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
# numpy expands ArrayLike to a union of four lines; the reference shows the names.
autodoc_type_aliases = {
    "ArrayLike": "array_like",
    "FloatArray": "ndarray",
    "ComplexArray": "ndarray",
    "PairArrays": "arrays",
}
autodoc_preserve_defaults = True
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
default_role = "code"
nitpicky = False
html_theme = "furo"
html_title = f"electret {release}"


def _short(text):
    """Names in place of forward references, module paths and the parameters of arrays."""
    if text is None:
        return None
    text = re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text)
    text = re.sub(r"~(?!electret\.)(?:\w+\.)+(\w+)", r"\1", text)
    return re.sub(
        r"(?:numpy\.)?ndarray\[tuple\[(?:typing\.)?Any, \.\.\.\], (?:numpy\.)?dtype\[[^\]]*\]\]",
        "ndarray",
        text,
    )


def _short_types(app, what, name, obj, options, signature, returns):
    if dataclasses.is_dataclass(obj):
        return "", None  # results, whose fields are listed below
    return _short(signature), _short(returns)


def _short_lines(app, what, name, obj, options, lines):
    lines[:] = map(_short, lines)


def setup(app):
    app.connect("autodoc-process-signature", _short_types)
    app.connect("autodoc-process-docstring", _short_lines, priority=900)  # after napoleon
