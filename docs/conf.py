"""Sphinx settings. `make docs` builds the site; pages under ``reference`` are generated first."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import generate  # noqa: E402 - found through the line above
from links import before_reading  # noqa: E402

import wsikd  # noqa: E402

os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # figures in notebooks
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

project = "wsikd"
author = "The wsikd authors"
copyright = "The wsikd authors, Apache-2.0. For research use only, not for diagnosis"
release = version = wsikd.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build", "_ext", "jupyter_execute", "**.ipynb_checkpoints"]
suppress_warnings = ["config.cache", "misc.highlighting_failure"]  # csv has no lexer
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "force"  # a cache would not notice that wsikd has changed
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_use_ivar = True
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "wsikd"
html_static_path = ["_static"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app):
    """Generate the reference before pages are read; keep links into the repository readable."""
    (HERE / "_static").mkdir(exist_ok=True)
    generate.write_all(HERE)
    app.connect("source-read", before_reading)
