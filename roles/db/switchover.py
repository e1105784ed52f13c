"""The primary moves to another db host, by an operator's hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyinfra
from pyinfra import logger
from pyinfra.api.exceptions import PyinfraError

from roles.db.configuration import rules
from roles.db.survey import db_states, held_by, refuse_second_writers
from tierstack import hosts
from tierstack.model import Cluster, Host, TierstackError
from tierstack.model.plan import listed
from tierstack.model.primary import slot_name
from tierstack.model.switchover import Member, Switchover, decide_switchover
from tierstack.operations.postgres import slot_sql, streams
from tierstack.operations.switchover import switched_over


def chosen(cluster: Cluster) -> Switchover:
    """
    Return what there is to do for the host to be the primary that `--data to=…` names.

    Raises:
        PyinfraError: it names none, or it cannot be now; nothing was changed.
    """
    return _decide(cluster)[0]


def carry_out(cluster: Cluster) -> None:
    """Have the chosen host be the primary; called for that host."""
    wanted, states = _decide(cluster)
    slots = [slot_name(name) for name in wanted.followers]
    switched_over(
        name=f"{wanted.to} is the primary",
        cluster=cluster,
        wanted=wanted,
        slots=list(slot_sql(slots, states[wanted.to].get("slots", ()))),
    )


@hosts.once_a_run
def _decide(cluster: Cluster) -> tuple[Switchover, dict[str, dict[str, Any]]]:
    for host in (*cluster.tier("db"), *cluster.tier("web")):
        if not hosts.in_this_run(host.name):
            raise PyinfraError(f"{host.name} has no part in this run; run it without --limit")
    states = db_states(cluster)
    order = [host.name for host in cluster.tier("db")]
    to = str(pyinfra.host.data.get("to") or "")
    try:
        wanted = decide_switchover(
            {name: _member(state) for name, state in states.items() if state},
            order,
            to,
            str(cluster.inventory),
        )
        if wanted.step == "switch":
            held = {name: held_by(state) for name, state in states.items() if state}
            refuse_second_writers(cluster, cluster.host(wanted.old), held)
    except TierstackError as error:
        raise PyinfraError(str(error)) from None
    if wanted.step == "nothing":
        logger.info(f"{to} is the primary already; nothing was changed")
    elif late := _not_told(cluster, cluster.host(to), states[to]["access"]):
        raise PyinfraError(f"{late}; nothing was changed. Deploy first")
    return wanted, states


def _not_told(cluster: Cluster, to: Host, access: Sequence[str]) -> str:
    """Return what a deploy has not made known yet, without which nobody could write on a host, or ""."""
    webs = [host.name for host in cluster.tier("web")]
    used = {name: hosts.facts(name)["database_hosts"] for name in webs}
    # A web host without sites asks nobody.
    if late := [name for name in webs if used[name] and to.address not in used[name]]:
        return f"{listed(late)} {'does' if len(late) == 1 else 'do'} not ask {to.name} yet"
    if any(rule not in access for rule in rules(cluster)):
        return f"{to.name} does not let everybody in yet who would need it as the primary"
    return ""


def _member(state: Mapping[str, Any]) -> Member:
    running = bool(state["running"])
    return Member(
        held=held_by(state),
        running=running,
        streams=running and streams(state),
        shut_down=state["shut_down"],
        behind={
            standby["name"]: standby["lag_bytes"]
            for standby in state.get("standbys", ())
            if standby["lag_bytes"] is not None
        },
    )
