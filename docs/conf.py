"""How the documentation is built: `make docs` writes docs/_build/html; a warning is an error.

Pages are Markdown. The reference of the recipe and of the plug-ins is written by `generate_reference.py` from the code, that
of the commands by sphinx-click, that of the library from docstrings.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generate_reference

import compress

project = "edge-compress"
author = "the authors of edge-compress"
project_copyright = author
release = compress.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click", "sphinx_copybutton"]
exclude_patterns = ["_build", "README.md"]
myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the outputs are committed, and a test executes the notebooks
copybutton_prompt_text = "$ "
default_role = "code"
smartquotes_action = "qe"  # no dashes: options of commands begin with two hyphens
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r".*")
]  # types in signatures; that links between pages lead somewhere is checked all the same
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"edge-compress {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}


def setup(app: Sphinx) -> None:
    """Have the reference written before the pages are read."""
    app.connect("builder-inited", lambda builder: generate_reference.write_pages(Path(builder.srcdir) / "reference"))
