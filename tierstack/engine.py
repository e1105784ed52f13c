"""What an inventory does to the pyinfra run that loads it, before the first connection."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pyinfra
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.config import Config
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.connectors.sshuserclient.config import SSHConfig
from pyinfra.context import ctx_config, ctx_state

from tierstack.connection import Heartbeat, Undelayed, login
from tierstack.host_keys import advice, ssh_defaults
from tierstack.model import Cluster
from tierstack.terminal import guard


class Rehearsal(State):
    """A run that ends before its first change, and so need not keep others out."""


def prepare_run(cluster: Cluster, group_data: Mapping[str, Mapping[str, Any]]) -> None:
    """
    Fit pyinfra's run to a checked inventory; does nothing outside of one.

    Args:
        cluster: the cluster that the run is for.
        group_data: group name to its settings, from the directory whose `group_data/` counts.

    Raises:
        PyinfraError: when pyinfra sets the run up: it would reach no host, or would not stop at a
            host that fails.
    """
    # A host that fails stops the tiers behind it. In an inventory file this still reaches the
    # run's own configuration; in deploy.py it would change a copy.
    if ctx_config.isset():
        ctx_config.get().FAIL_PERCENT = 0
    if not ctx_state.isset():
        return
    state = ctx_state.get()
    set_up = state.init
    deploys = bool(_deploy_files())
    handlers: list[BaseStateCallback] = []
    if pyinfra.is_cli:
        guard()
        handlers += [_Advice(cluster), Undelayed(), Heartbeat()]
        if not isinstance(state, Rehearsal):
            # Its import puts greenlets in place of a process's threads; here they are already.
            from tierstack.summary import RunEnd

            file = str(_options()["inventory"]) if deploys else ""
            handlers.append(RunEnd(cluster, state, file))

    def init(inventory: Inventory, *arguments: Any, **options: Any) -> None:
        """Set the run up; only now is there an inventory, and does the state take handlers."""
        _refuse_options(cluster, deploys=deploys, limit=options.get("initial_limit"))
        _replace_group_data(inventory, group_data, ssh_defaults(cluster.inventory))
        _reach_by_address(inventory, cluster)
        set_up(inventory, *arguments, **options)
        _keep_order(state, inventory, [host.name for host in cluster.hosts])
        for handler in handlers:
            state.add_callback_handler(handler)

    state.init = init


def no_inventory(path: str | Path) -> str:
    """Return what is said of a path that leads to no inventory."""
    return f"{path}: no such inventory; write the path of a file"


def refuse_missing_inventory() -> None:
    """
    End a run of pyinfra whose inventory is the path of no file.

    Raises:
        SystemExit: with what to write instead.
    """
    path = str(_options().get("inventory", ""))
    looks_like_path = path.endswith(".py") or Path(path).is_dir()
    if looks_like_path and not Path(path).is_file():
        sys.exit(no_inventory(path))


def connector_arguments(host: PyinfraHost, **given: Any) -> dict[str, Any]:
    """
    Return how commands are to be run on a host: sudo and the like, from its line and group data.

    Args:
        host: the host, within a run.
        given: arguments such as `_stdin`, which come first.
    """
    found, _ = pop_global_arguments(ctx_state.get(), host, given)
    return {key: value for key, value in found.items() if key in CONNECTOR_ARGUMENT_KEYS}


def ssh_data(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Return pyinfra's `ssh_*` data of each host of an inventory, by name; no host is asked."""
    # Its import puts greenlets in place of the process's threads.
    from pyinfra_cli.inventory import make_inventory

    state = State()
    with ctx_state.use(state):
        inventory = make_inventory(str(cluster.inventory))
        state.init(inventory, Config())
    return {
        host.name: {key: value for key, value in host.data.dict().items() if key.startswith("ssh_")}
        for host in inventory
    }


def deploys_with_secrets() -> bool:
    """
    Return whether this is a run of pyinfra with a deploy file that loads secrets.

    Others, such as `tasks/drain.py`, must work on a night when the password store is locked.
    """
    return any(
        "load_secrets" in file.read_text(encoding="utf-8")
        for file in _deploy_files()
        if file.is_file()
    )


def _deploy_files() -> list[Path]:
    """Return the deploy files that this run of pyinfra is of; none for a single command."""
    return [Path(name) for name in _options().get("operations", ()) if str(name).endswith(".py")]


def _options() -> dict[str, Any]:
    """Return what pyinfra's command line says; {} where it is not pyinfra's."""
    context = click.get_current_context(silent=True) if pyinfra.is_cli else None
    return context.params if context else {}


def _refuse_options(cluster: Cluster, *, deploys: bool, limit: list[PyinfraHost] | None) -> None:
    """Refuse what pyinfra would end with exit status 0 though nothing, or half of it, was done."""
    if limit == []:
        raise PyinfraError(
            "--limit and --exclude leave no host; name hosts or tiers of the inventory:"
            f" {', '.join(host.name for host in cluster.hosts)}"
        )
    for option in ("no_wait", "serial"):
        if deploys and _options().get(option):
            raise PyinfraError(
                f"--{option.replace('_', '-')}: a tier is only changed once the one before it"
                " answers, on all of its hosts; leave the option out"
            )
    asks = not any(_options().get(name) for name in ("yes", "dry", "json_output"))
    if deploys and asks and _nobody_answers():
        raise PyinfraError(
            "pyinfra asks before it changes anything, and nobody is there to answer; add -y, or --dry to"
            " see what would be done"
        )


def _nobody_answers() -> bool:
    """Return whether standard input is closed or /dev/null; a pipe may hold an answer."""
    try:
        return os.path.samestat(os.fstat(sys.stdin.fileno()), Path(os.devnull).stat())
    except (AttributeError, OSError, ValueError):
        return True


def _replace_group_data(
    inventory: Inventory, own: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]
) -> None:
    """
    Take out what pyinfra has read from `group_data/` of the working directory.

    That is the checkout's, which pyinfra lays under a user's own, key by key: the user's hosts
    would get the SSH user of the checkout's example, say.
    """
    inventory.data = {**defaults, **own.get("all", {})}
    for name in inventory.group_data:
        inventory.group_data[name] = dict(own.get(name, {}))


def _reach_by_address(inventory: Inventory, cluster: Cluster) -> None:
    """
    Have SSH go to the address in a host's line, which pyinfra knows nothing of.

    `ssh_hostname` of the line or of group data comes first, then a user's SSH configuration that
    knows the host's name.
    """
    read: dict[Path, SSHConfig] = {}
    for host in cluster.hosts:
        data = inventory.get_host(host.name).data
        if data.get("ssh_hostname"):
            continue
        file = Path(data.get("ssh_config_file") or "~/.ssh/config").expanduser()
        if file not in read:
            read[file] = SSHConfig()
            if file.exists():
                with file.open(encoding="utf-8") as text:
                    read[file].parse(text)
        if not _is_configured(host.name, read[file]):
            inventory.host_data[host.name]["ssh_hostname"] = host.address


def _is_configured(name: str, config: SSHConfig) -> bool:
    """Return whether an SSH configuration says of this host what it does not say of any."""
    # paramiko names the hosts of a file only where it has no Match.
    anybody = repr(dict(config.lookup("nobody.invalid"))).replace("nobody.invalid", name)
    return repr(dict(config.lookup(name))) != anybody


def _keep_order(state: State, inventory: Inventory, names: list[str]) -> None:
    """
    Have hosts taken in the inventory's order.

    pyinfra keeps them in a set: a roll would begin with any of them, and stop at a broken one
    before or after the others.
    """

    def in_order() -> list[PyinfraHost]:
        return sorted(state.active_hosts, key=lambda host: names.index(host.name))

    inventory.get_active_hosts = in_order  # type: ignore[method-assign]  # nowhere else to say it


class _Advice(BaseStateCallback):
    """Adds to pyinfra's words on a host that does not answer what to look at."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def host_connect_error(self, state: State, host: PyinfraHost, error: Exception) -> None:  # type: ignore[override]
        """Say which line of the inventory to check, and what to type."""
        name = host.name
        if said := advice(error, self._cluster.inventory):
            click.secho(f"{name}: {said}", fg="yellow", err=True)
            return
        target = host.data.get("ssh_hostname") or name
        click.secho(
            f"{name} does not let us in at {target}; no host was changed. Is it up, and is its line"
            f" right ({self._cluster.host(name).line}: address, ssh_hostname, ssh_user, ssh_key)?"
            f" Type: {login(host)}",
            fg="yellow",
            err=True,
        )
