"""The one adapter between pyinfra's inventory files and the model."""

from __future__ import annotations

import inspect
import types
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import click
import pyinfra
from pyinfra.api.arguments import all_global_arguments
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.ssh import ConnectorData
from pyinfra.context import ctx_config, ctx_state

from tierstack.model import Cluster, InventoryError, Mistake, TierstackError
from tierstack.model.check import check
from tierstack.model.raw import RawInventory
from tierstack.model.settings import TIER_SETTINGS

#: The checkout's own root: `group_data/` there belongs to `inventories/` there, and to no one else.
_CHECKOUT = Path(__file__).resolve().parent.parent

_checked: Cluster | None = None
_raise_mistakes: ContextVar[bool] = ContextVar("_raise_mistakes", default=False)


def cluster(inventory_file: str) -> None:
    """
    Load and check the cluster; the last line of every inventory is `cluster(__file__)`.

    Args:
        inventory_file: the inventory's own `__file__`.

    Raises:
        SystemExit: with status 2, after printing every mistake, before pyinfra connects to a host.
    """
    global _checked
    _checked = None
    frame = inspect.currentframe()
    caller = frame.f_back if frame else None
    if caller is None:
        raise TierstackError("cluster() must be called from an inventory file")
    try:
        _checked = check(_read(Path(inventory_file).resolve(), caller.f_globals))
    except InventoryError as error:
        if _raise_mistakes.get():
            raise
        click.secho(str(error), fg="red", err=True)
        raise SystemExit(2) from None
    # A host that fails stops the tiers behind it. In an inventory file this still reaches the
    # run's own configuration; in deploy.py it would change a copy.
    if ctx_config.isset():
        ctx_config.get().FAIL_PERCENT = 0
    if pyinfra.is_cli and ctx_state.isset():
        _advise(ctx_state.get(), _checked)


def _advise(state: State, checked: Cluster) -> None:
    """Have pyinfra call us when a host does not answer; its state takes handlers only once it is set up."""
    set_up = state.init

    def init(*arguments: Any, **options: Any) -> None:
        set_up(*arguments, **options)
        state.add_callback_handler(_Advice(checked))

    state.init = init  # type: ignore[method-assign]


class _Advice(BaseStateCallback):
    """Adds to pyinfra's words on a host that does not answer what to look at."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def host_connect_error(self, state: State, host: PyinfraHost, error: Exception) -> None:  # type: ignore[override]
        """Say which line of the inventory to check, and what to type."""
        name = host.name
        tier = self._cluster.host(name).tiers[0]
        index = self._cluster.tier(tier).index(self._cluster.host(name))
        target = host.data.get("ssh_hostname") or name
        user = host.data.get("ssh_user")
        port = f"-p {host.data.ssh_port} " if host.data.get("ssh_port") else ""
        click.secho(
            f"{name} does not let us in at {target}; no host was changed. Is it up, and is its line"
            f" right ({tier}[{index}]: address, ssh_hostname, ssh_user, ssh_key)?"
            f" Type: ssh {port}{f'{user}@' if user else ''}{target}",
            fg="yellow",
            err=True,
        )


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
        raise TierstackError(f"{path}: no such inventory; write the path of a file")
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


def _read(file: Path, namespace: Mapping[str, Any]) -> RawInventory:
    home = _home(file)
    passed_on = {*ConnectorData.__annotations__, *(key for key, _ in all_global_arguments())}
    groups = {
        key: value[0]
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict)
        else value
        for key, value in namespace.items()
        if isinstance(value, (list, tuple)) and not key.startswith("_")
    }
    mistakes: list[Mistake] = []
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
        data[name] = _read_group(folder / f"{name}.py", mistakes)
    return RawInventory(
        path=_shown(file),
        file=file,
        home=home,
        groups=groups,
        group_data=data,
        passed_on=passed_on,
        mistakes=mistakes,
    )


def _home(file: Path) -> Path:
    """Return the directory whose `group_data/` counts: never the checkout's for a user's own inventory."""
    inside = file.is_relative_to(_CHECKOUT / "inventories")
    if inside and not (file.parent / "group_data").is_dir():
        return _CHECKOUT
    return file.parent


def _read_group(file: Path, mistakes: list[Mistake]) -> dict[str, Any]:
    namespace: dict[str, Any] = {"__file__": str(file)}
    try:
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), namespace)  # noqa: S102 -- group data is Python, as pyinfra runs it
    except Exception as error:
        mistakes.append(Mistake(_position(error, file), _said(error)))
        return {}
    return {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_")
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
