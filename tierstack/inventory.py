"""The one adapter between pyinfra's inventory files and the model."""

from __future__ import annotations

import importlib.metadata
import inspect
import types
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pyinfra.api.arguments import all_global_arguments
from pyinfra.connectors.ssh import ConnectorData

from tierstack.engine import deploys_with_secrets, no_inventory, prepare_run
from tierstack.model import Cluster, InventoryError, Mistake, TierstackError
from tierstack.model.check import check
from tierstack.model.raw import RawInventory
from tierstack.model.settings import TIER_SETTINGS
from tierstack.model.shell import quoted
from tierstack.model.source import check_sources
from tierstack.secrets import check_secrets
from tierstack.secrets_file import file_mistakes, git_mistakes, secrets_file_of

#: The checkout's own root: `group_data/` there belongs to `inventories/` there, and to no one else.
CHECKOUT = Path(__file__).resolve().parent.parent

_checked: Cluster | None = None
_raise_mistakes: ContextVar[bool] = ContextVar("_raise_mistakes", default=False)


def cluster(inventory_file: str, requires: str = "") -> None:
    """
    Load and check the cluster; the last line of every inventory is `cluster(__file__)`.

    Args:
        inventory_file: the inventory's own `__file__`.
        requires: versions of Tierstack that the inventory is written for, e.g. ">=0.1,<0.3";
            any by default.

    Raises:
        SystemExit: with status 2, after printing every mistake, before pyinfra connects to a host.
    """
    global _checked
    _checked = None
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if caller is None:
        raise TierstackError("cluster() must be called from an inventory file")
    file = Path(inventory_file).resolve()
    try:
        _check_requires(requires, file)
        raw = _read(file, caller.f_globals)
        found = check(raw)
        mistakes = []
        if deploys_with_secrets():
            mistakes = [*check_secrets(found), *check_sources(found)]
        if mistakes:
            raise InventoryError(raw.path, mistakes)
    except InventoryError as error:
        if _raise_mistakes.get():
            raise
        click.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None
    _checked = found
    prepare_run(found, raw.group_data)


def checked_cluster() -> Cluster:
    """
    Return the cluster of the inventory that pyinfra has loaded.

    Raises:
        TierstackError: the inventory did not check itself.
    """
    if _checked is None:
        raise TierstackError(
            "this inventory is not checked; end it with two lines:"
            " from tierstack.inventory import cluster / cluster(__file__)"
        )
    return _checked


def load_cluster(path: str | Path) -> Cluster:
    """
    Read and check an inventory without pyinfra's run and without a connection.

    Args:
        path: the inventory file.

    Raises:
        InventoryError: with all mistakes.
        TierstackError: the file does not exist or does not check itself.
    """
    file = Path(path)
    if not file.is_file():
        raise TierstackError(no_inventory(path))
    token = _raise_mistakes.set(True)
    try:
        code = compile(file.read_text(encoding="utf-8"), str(file), "exec")
        exec(code, {"__file__": str(file.resolve())})  # noqa: S102 -- an inventory is Python, as pyinfra runs it
    except InventoryError:
        raise
    except Exception as error:
        raise InventoryError(str(path), [Mistake(_position(error, file), _said(error))]) from error
    finally:
        _raise_mistakes.reset(token)
    found = checked_cluster()
    if found.inventory != file.resolve():
        raise TierstackError(f"{path}: end it with cluster(__file__)")
    return found


def _check_requires(requires: str, file: Path) -> None:
    """Refuse an inventory for another version at once: with this one, its settings mean little."""
    have = Version(importlib.metadata.version("tierstack"))
    try:
        wanted = SpecifierSet(requires)
    except InvalidSpecifier:
        what = f'"{requires}" does not say which versions; write e.g. ">=0.1"'
        raise InventoryError(_shown(file), [Mistake("requires", what)]) from None
    if wanted.contains(have, prereleases=True):
        return
    # Whoever is behind pulls; who is ahead of what the inventory knows has to go back.
    behind = any(
        rule.operator in (">", ">=", "==", "~=") and have < Version(rule.version.rstrip(".*"))
        for rule in wanted
    )
    get = "git pull" if behind else "git checkout TAG (one that fits)"
    what = f"needs tierstack {wanted}, and this is {have}; type: cd {quoted(CHECKOUT)} && {get} && pip install -e ."
    raise InventoryError(_shown(file), [Mistake("requires", what)])


def _read(file: Path, namespace: Mapping[str, Any]) -> RawInventory:
    home = _home(file)
    passed_on = {*ConnectorData.__annotations__, *(key for key, _ in all_global_arguments())}
    secrets_file = secrets_file_of(file)
    mistakes = [*file_mistakes(secrets_file), *git_mistakes(secrets_file)]
    groups: dict[str, Sequence[Any]] = {}
    for key, value in namespace.items():
        if not isinstance(value, (list, tuple)) or key.startswith("_"):
            continue
        groups[key] = value
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
            what, groups[key] = _pair(key, *value)
            mistakes.append(Mistake(key, what))
    data: dict[str, Mapping[str, Any]] = {}
    folder = home / "group_data"
    names = [path.stem for path in sorted(folder.glob("*.py"))]
    # Later wins: all hosts, then a tier, then what this one inventory says.
    order = ["all", *(name for name in names if name not in ("all", file.stem)), file.stem]
    siblings = {path.stem for path in file.parent.glob("*.py")} - {file.stem}
    for name in order:
        if name not in names or name in siblings:
            continue
        known = {"all", file.stem, *TIER_SETTINGS}
        if name not in known:
            what = f"is no tier; known are {', '.join(sorted(known))}"
            mistakes.append(Mistake(f"group_data/{name}.py", what))
            continue
        data[name] = _read_group(folder / f"{name}.py", passed_on, mistakes)
    return RawInventory(
        path=_shown(file),
        file=file,
        home=home,
        groups=groups,
        group_data=data,
        passed_on=passed_on,
        mistakes=mistakes,
    )


def _pair(key: str, first: Any, data: dict[str, Any]) -> tuple[str, Sequence[Any]]:
    """Return what is wrong with a group that is a pair, and the hosts that it seems to mean."""
    if isinstance(first, str):
        return f"is one host and no list; write [{(first, data)!r}]", [(first, data)]
    what = (
        "is a pair of hosts and data, which is not read; write the data in the hosts' lines, or in"
        f" group_data/{key}.py"
    )
    return what, first if isinstance(first, (list, tuple)) else []


def _home(file: Path) -> Path:
    """Return the directory whose `group_data/` counts: never the checkout's for a user's own inventory."""
    inside = file.is_relative_to(CHECKOUT / "inventories")
    if inside and not (file.parent / "group_data").is_dir():
        return CHECKOUT
    return file.parent


def _read_group(file: Path, passed_on: Collection[str], mistakes: list[Mistake]) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__file__": str(file)}
    try:
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)  # noqa: S102 -- group data is Python, as pyinfra runs it
    except Exception as error:
        mistakes.append(Mistake(_position(error, file), _said(error)))
        return {}
    return {
        key: value
        for key, value in namespace.items()
        if (key in passed_on or not key.startswith("_"))
        and not isinstance(value, (types.ModuleType, type))
        and not callable(value)
    }


def _position(error: Exception, file: Path) -> str:
    line = error.lineno if isinstance(error, SyntaxError) else None
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(file):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    name = _shown(file) if file.parent.name != "group_data" else f"group_data/{file.name}"
    return f"{name}, line {line}" if line else name


def _said(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"


def _shown(file: Path) -> str:
    with suppress(ValueError):
        return str(file.relative_to(Path.cwd()))
    return str(file)
