"""Writes docs/reference/_build: the docstrings of all packages as HTML, by pdoc; needs no network.

python docs/api.py
"""

import pkgutil
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pdoc

_OUT = Path(__file__).parent / "reference" / "_build"
_PACKAGES = ("edgeprune", "exporters", "runtime_tests")
# What runs the command line, and what is C++.
_NOT_IMPORTED = (
    "edgeprune.__main__",
    "edgeprune.runtime.libedgeprune_runtime",
    "edgeprune.runtime.libggml-edgeprune",
)


def modules() -> Iterator[str]:
    """Names of all modules; by itself `pdoc` leaves out those that ``__all__`` does not name."""
    for name in _PACKAGES:
        yield name
        package = import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.name not in _NOT_IMPORTED:
                yield found.name


def main() -> None:
    """Write the pages."""
    public = import_module("edgeprune")
    for name in public.__all__:  # imported lazily, which `pdoc` does not see
        vars(public)[name] = getattr(public, name)
    warnings.filterwarnings("ignore", "The module specification .* already been added")
    pdoc.render.configure(docformat="google")
    pdoc.pdoc(*modules(), output_directory=_OUT)


if __name__ == "__main__":
    main()
