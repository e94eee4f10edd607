"""How the documentation is built: ``make docs``."""

import importlib
from importlib.metadata import version as version_of
from typing import Any

project = "devplugin"
author = "The devplugin authors"
copyright = "The devplugin authors"  # noqa: A001  (the name that Sphinx reads)
release = version = version_of("devplugin")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"devplugin {release}"
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["look.css"]
pygments_dark_style = "github-dark"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"  # a name in single backticks
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True

# The build works without a network, so other projects' inventories cannot be asked for what is theirs.
nitpick_ignore_regex = [
    (r"py:(class|exc)", r"(?:asyncio|collections\.abc|enum|pathlib|random|os|subprocess|types)\..+"),
]
nitpick_ignore = [("py:class", "devplugin.model.D")]  # the author's own Device class: a type variable

_PUBLIC = {
    name: f"{module}.{name}"
    for module in ("devplugin.testing", "devplugin")
    for name in importlib.import_module(module).__all__
}


def _find_public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link ``devplugin.model.Device``, which is where it is defined, to ``devplugin.Device``, which is documented."""
    target = node["reftarget"]
    module, _, name = target.rpartition(".")
    if node.get("refdomain") != "py" or name not in _PUBLIC or not (module + ".").startswith((".", "devplugin.")):
        return None
    public = _PUBLIC[name]
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], public, node, content)


def _shorten_defaults(*call: Any) -> tuple[str | None, str | None]:
    """Write ``...`` for an empty collection that each object has anew: what stands there is no Python and breaks links."""
    *_, signature, returns = call
    return signature and signature.replace("<factory>", "..."), returns


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", _shorten_defaults)
    app.connect("missing-reference", _find_public_name)
