"""What source files import."""

import ast
from collections.abc import Iterable
from pathlib import Path


def imports_of(path: Path) -> list[str]:
    """Dotted names that a file imports anywhere, names out of modules included."""
    return _names(ast.walk(ast.parse(path.read_text())))


def first_imports_of(path: Path) -> list[str]:
    """Those alone that are imported with the file itself."""
    return _names(ast.parse(path.read_text()).body)


def _names(nodes: Iterable[ast.AST]) -> list[str]:
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found
