"""What a Django project's own files say of its settings, read as text and never run."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

#: Last parts of settings modules' names that are not for visitors.
DEVELOPMENT = frozenset({"local", "dev", "devel", "development", "test", "testing", "tests", "ci"})

#: Last parts of settings modules' names that are, the first to come first.
PRODUCTION = ("production", "prod", "live")

_VARIABLE = "DJANGO_SETTINGS_MODULE"


@dataclass(frozen=True)
class Assigned:
    """
    A value that a settings module gives a name for good, as far as its text tells.

    Args:
        where: file, relative to the source, and line.
        value: the expression.
    """

    where: str
    value: ast.expr


def named_module(file: Path) -> str:
    """
    Return the settings module that a manage.py or wsgi.py names; "" if it names none.

    Both forms count: `setdefault(NAME, MODULE)` and `environ[NAME] = MODULE`.
    """
    tree = _parse(file)
    for node in ast.walk(tree) if tree else ():
        pair: tuple[ast.expr, ast.expr] | None = None
        if isinstance(node, ast.Call) and len(node.args) == 2:
            pair = (node.args[0], node.args[1])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            pair = (node.targets[0].slice, node.value)
        values = [part.value for part in pair or () if isinstance(part, ast.Constant)]
        if len(values) == 2 and values[0] == _VARIABLE:
            return str(values[1])
    return ""


def module_file(roots: list[Path], module: str) -> Path | None:
    """
    Return the file of a module below one of these directories; None if none has it.

    Args:
        roots: directories that Python would look in, in order.
        module: e.g. "shop.settings.production".
    """
    parts = module.split(".")
    for root in roots:
        for file in (
            root.joinpath(*parts).with_suffix(".py"),
            root.joinpath(*parts, "__init__.py"),
        ):
            if file.is_file():
                return file
    return None


def last_assignments(source: Path, roots: list[Path], module: str) -> dict[str, Assigned]:
    """
    Return what a settings module assigns at its top level, `from … import *` included.

    A name that only some branch gives a value, or that something changes afterwards, is left out:
    what it has in the end is for Python to say.

    Args:
        source: the site's source, which messages name files relative to.
        roots: directories that Python would look in, in order.
        module: the settings module.
    """
    file = module_file(roots, module)
    found: dict[str, Assigned] = {}
    if file:
        _read_module(file, source, roots, found, seen=set())
    return found


def _read_module(
    file: Path, source: Path, roots: list[Path], found: dict[str, Assigned], seen: set[Path]
) -> None:
    tree = _parse(file)
    if tree is None or file in seen:
        return
    seen.add(file)
    shown = str(file.relative_to(source)) if file.is_relative_to(source) else str(file)
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            imported = _imported(node, file, roots)
            if imported:
                _read_module(imported, source, roots, found, seen)
            else:
                found.clear()
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if _reaches_all(node):
                found.clear()
            for target in targets:
                if isinstance(target, ast.Name):
                    found[target.id] = Assigned(f"{shown}, line {node.lineno}", node.value)
                else:
                    _forget(target, found)
        elif _is_missing_import(node, file, roots):
            continue
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.pop(node.name, None)
        else:
            if _reaches_all(node):
                found.clear()
            _forget(node, found)


def _imported(node: ast.ImportFrom, file: Path, roots: list[Path]) -> Path | None:
    module = node.module or ""
    if not node.level:
        return module_file(roots, module)
    folder = file.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    return module_file([folder], module) if module else folder / "__init__.py"


def _is_missing_import(node: ast.stmt, file: Path, roots: list[Path]) -> bool:
    """Whether a statement is `try: from .local import *` of a module that is not there."""
    if not isinstance(node, ast.Try) or len(node.body) != 1:
        return False
    inner = node.body[0]
    return (
        isinstance(inner, ast.ImportFrom)
        and inner.level > 0
        and not (inner.module and _imported(inner, file, roots))
        and all(isinstance(child, ast.Pass) for handler in node.handlers for child in handler.body)
    )


def _reaches_all(node: ast.stmt) -> bool:
    """Whether a statement may set any name: it imports all of something, or hands the module on."""
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom) and any(alias.name == "*" for alias in child.names):
            return True
        # The last one is that of django-split-settings.
        names = ("exec", "globals", "locals", "vars", "include")
        if isinstance(child, ast.Name) and child.id in names:
            return True
        # As DjangoDynaconf(__name__); a logger of that name changes nothing.
        if isinstance(child, ast.Call) and not ast.unparse(child.func).endswith("getLogger"):
            given = [one.id for one in child.args if isinstance(one, ast.Name)]
            if "__name__" in given:
                return True
    return False


def _forget(node: ast.AST, found: dict[str, Assigned]) -> None:
    """Leave out each name that a statement mentions or imports: it may change what the name has."""
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            found.pop(child.id, None)
        elif isinstance(child, ast.alias):
            found.pop(child.asname or child.name, None)


def _parse(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None
