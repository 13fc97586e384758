"""How the site is built: ``sphinx-build -W -n -b html docs docs/_build/html``.

It needs Python 3.11 or later and the extra ``docs``.

``sphinx-build -b linkcheck docs docs/_build/linkcheck`` checks the links.
"""

from __future__ import annotations

import importlib.metadata
import os
import pkgutil
import sys
import types
from typing import Any

from docutils import nodes

project = "mcpool-wsgi"
release = importlib.metadata.version("mcpool-wsgi")
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "mcpool-wsgi"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # or the environment of the build would be on a page
autodoc_typehints = "description"  # in a signature they take the whole screen of a phone
autodoc_typehints_description_target = "documented_params"

# The build must work without a network, so links to other sites are checked only on demand.
if not os.environ.get("LINKCHECK_EXTERNAL"):
    linkcheck_ignore = ["https?://"]

PYTHON = "https://docs.python.org/3/library/"
PYLIBMC = "https://sendapatch.se/projects/pylibmc/"
BUILTIN_PAGES = {
    "None": "constants",
    **dict.fromkeys(["bool", "float", "int", "object"], "functions"),
    **dict.fromkeys(["bytes", "dict", "list", "str", "tuple"], "stdtypes"),
}
PYLIBMC_PAGES = {
    "Client": "reference.html#pylibmc.Client",
    "ClientPool": "pooling.html",
    "ThreadMappedPool": "pooling.html",
}


def resolve(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a name of Python or pylibmc to its documentation; show other names as they are.

    A name that does not exist stays a warning. sphinx.ext.intersphinx makes such links from
    files that it fetches, and the build must work without a network.
    """
    name = node.get("reftarget", "")
    if name.rpartition(".")[2] == "_Self":
        name, content = "typing.Self", nodes.emphasis("", "Self")
    elif name in ("WSGIApplication", "WSGIEnvironment", "StartResponse"):  # from _typeshed
        name = f"wsgiref.types.{name}"
    # Annotations have names that a module imports for type checkers only.
    imported = ("mcpool_wsgi.client.", "mcpool_wsgi.pool.", "dns.resolver.")
    for prefix in ("", f"{node.get('py:module')}.", "builtins.", *imported):
        full_name = prefix + name
        try:
            found = pkgutil.resolve_name(full_name)
        except (AttributeError, ImportError, ValueError):
            continue
        package = full_name.partition(".")[0]
        if package == "pylibmc":
            url = PYLIBMC + PYLIBMC_PAGES.get(name.rpartition(".")[2], "reference.html")
        elif package == "builtins":
            url = PYTHON + f"{BUILTIN_PAGES.get(name, 'exceptions')}.html#{name}"
        elif package not in sys.stdlib_module_names:
            return content
        elif isinstance(found, types.ModuleType):
            url = PYTHON + f"{name}.html"
        else:
            url = PYTHON + f"{name.rpartition('.')[0]}.html#{name}"
        return nodes.reference("", "", content, internal=False, refuri=url)
    return None


def setup(app: Any) -> None:
    app.connect("missing-reference", resolve)
