"""What the next run would do: `deploy.py` itself, up to where it would change the first host.

pyinfra prepares a run by asking the hosts, and only then executes it. Here every operation is asked
for its commands, host by host in the order of the run, and none is executed. What touches the
engine's insides to that end is in this file.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import gevent
import pyinfra
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.config import Config
from pyinfra.api.connect import connect_all, disconnect_all
from pyinfra.api.host import Host as PyinfraHost
from pyinfra.api.state import State, StateOperationHostData, StateStage
from pyinfra.connectors.util import CommandOutput
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state
from pyinfra_cli.inventory import make_inventory
from pyinfra_cli.prints import pretty_op_name
from pyinfra_cli.util import load_deploy_file

from tierstack.engine import Rehearsal
from tierstack.inventory import CHECKOUT
from tierstack.model import Cluster
from tierstack.model.plan import Effect, FileChange, HostPlan, Plan, Step, with_old
from tierstack.operations.gate import Refuse
from tierstack.operations.remote import RemoteFact, program
from tierstack.secrets import load_secrets


class HostContents(RemoteFact):
    """Contents of files in base64, by path, and whether a run has been on the host before."""


def rehearse(cluster: Cluster, *, diff: bool, data: Mapping[str, str] | None = None) -> Plan:
    """
    Go through a run without executing it.

    Args:
        cluster: the cluster of an inventory that has been loaded.
        diff: whether old contents are asked for of all files, rather than of those that are counted.
        data: what the run would be told by `--data`.

    Raises:
        PyinfraError: what the run would be refused with, or a host does not answer.
    """
    # What a run prints on its way; what is wrong is raised.
    logging.getLogger("pyinfra").setLevel(logging.ERROR)
    state = Rehearsal(check_for_changes=False)
    was_cli, pyinfra.is_cli = pyinfra.is_cli, True  # operations are known by their lines
    try:
        with ctx_state.use(state), ctx_config.use(Config()):
            inventory = make_inventory(str(cluster.inventory), override_data=dict(data or {}))
            with ctx_inventory.use(inventory):
                state.init(inventory, ctx_config.get())
                state.set_stage(StateStage.Connect)
                connect_all(state)
                state.set_stage(StateStage.Prepare)
                load_deploy_file(state, str(CHECKOUT / "deploy.py"))
                return _plan(state, cluster, diff)
    finally:
        pyinfra.is_cli = was_cli
        if state.initialised:
            disconnect_all(state)
        for context in (ctx_state, ctx_config, ctx_inventory):
            context.reset()


def hidden_values(cluster: Cluster) -> list[str]:
    """Return every value of the cluster's secrets that may stand in no diff."""
    values = load_secrets(cluster).values
    return [value for name, value in values.items() if not name.endswith("certificate")]


def _plan(state: State, cluster: Cluster, diff: bool) -> Plan:
    positions = {key: number for number, key in enumerate(state.get_op_order())}
    asked = {
        host.name: gevent.spawn(_host_plan, state, host, cluster, positions, diff)
        for host in state.inventory.get_active_hosts()
    }
    return Plan(tuple(asked[host.name].get() for host in cluster.hosts if host.name in asked))


def _host_plan(
    state: State, host: PyinfraHost, cluster: Cluster, positions: dict[str, int], diff: bool
) -> HostPlan:
    steps, refusals = [], []
    with ctx_config.use(state.config.copy()), ctx_host.use(host):
        for key in host.op_hash_order:
            commands = _commands(state.ops[host][key])
            refused = [command.sentence for command in commands if isinstance(command, Refuse)]
            refusals += refused
            if commands and not refused:
                name = pretty_op_name(state.op_meta[key])
                steps.append(Step(name, positions[key], tuple(_effects(commands))))
        known = True
        if steps:
            paths = sorted(
                {file.path for step in steps for file in step.files if _asked(file, diff)}
            )
            request = {"verb": "read", "paths": paths}
            found = host.get_fact(HostContents, _stdin=program("agent.py", request))
            known = found["known"]
            contents = found["contents"].items()
            steps = with_old(steps, {path: base64.b64decode(text) for path, text in contents})
    tiers = cluster.host(host.name).tiers
    return HostPlan(host.name, tuple(tiers), not known, tuple(steps), tuple(refusals))


def _commands(operation: StateOperationHostData) -> list[PyinfraCommand]:
    """Return what an operation would run, and note it as done, for those that hang on it."""
    conditions: Any = operation.global_arguments["_if"] or []
    if not isinstance(conditions, list):
        conditions = [conditions]
    commands = []
    if all(condition() for condition in conditions):
        commands = list(operation.command_generator())
    operation.operation_meta.set_complete(True, commands, CommandOutput([]))
    return commands


def _effects(commands: Iterable[PyinfraCommand]) -> list[Effect]:
    # Not all of them are shell commands, and others' operations tell nothing.
    return [command.effect for command in commands if hasattr(command, "effect")]


def _asked(file: FileChange, diff: bool) -> bool:
    return file.before == "file" and not file.secret and (diff or file.rules is not None)
