"""The documentation site: ``make docs`` writes it to docs/_build, without a network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("TERM", "dumb")  # the help of the command, without colours

import pyro_vae  # noqa: E402

project = "pyro_vae"
author = "The pyro_vae developers"
copyright = "the pyro_vae developers"
version = release = pyro_vae.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "outside",
    "written",
    "pictured",
]
exclude_patterns = ["_build", "_ext", "gallery/*.ipynb", "**/*.py"]
nitpicky = False  # docstrings name things of torch and Pyro, whose pages are not here

# Docstrings: types stand with the arguments, and `name` in single backticks is code.
default_role = "code"
smartquotes = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
autodoc_inherit_docstrings = False
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["See also"]
napoleon_use_ivar = True

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "pyro_vae"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["llms.txt"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The examples take minutes each: `make gallery` runs them, and their pictures are kept.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "plot_gallery": False,
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "notebook_extensions": set(),
    "show_signature": False,
    "remove_config_comments": True,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "default_thumb_file": str(HERE / "images" / "bounds.png"),
}
