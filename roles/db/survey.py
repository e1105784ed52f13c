"""Who is the primary, and what each db host holds: asked once a run, before anything is changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import gevent
from pyinfra import inventory
from pyinfra.api.exceptions import PyinfraError

from tierstack import hosts
from tierstack.model import Cluster, Host, TierstackError
from tierstack.model.primary import (
    DATA_DIRECTORY,
    Copy,
    DataDirectory,
    PrimaryError,
    decide_primary,
    decide_rebuild,
    second_writers,
    slot_name,
)
from tierstack.operations.postgres import (
    CopyState,
    DbState,
    Peers,
    Replaced,
    ask_peers,
    look,
    look_at_copy,
    streams,
)


@dataclass(frozen=True)
class Survey:
    """
    The primary, and what is found on the db hosts of this run, by name.

    Args:
        primary: the primary.
        states: what each host said of itself (`DbState`).
        replaced: of standbys that cannot follow, what becomes of their data.
    """

    primary: Host
    states: Mapping[str, dict[str, Any]]
    replaced: Mapping[str, Replaced]


@hosts.once_a_run
def survey(cluster: Cluster) -> Survey:
    """
    Return who is the primary; ask all db hosts once a run.

    Raises:
        PyinfraError: it cannot be told; no host was changed.
    """
    members = {host.name: host for host in cluster.tier("db")}
    states = db_states(cluster)
    held = {name: held_by(state) for name, state in states.items() if state}
    try:
        primary = members[decide_primary(held, list(members), str(cluster.inventory))]
        refuse_second_writers(cluster, primary, held)
        replaced = _replaced(primary, states)
    except TierstackError as error:
        raise PyinfraError(str(error)) from None
    return Survey(primary, states, replaced)


def refuse_second_writers(
    cluster: Cluster, primary: Host, held: Mapping[str, DataDirectory]
) -> None:
    """
    Ask the hosts that web hosts use as well, and that are no db hosts of the inventory any more.

    Raises:
        PrimaryError: one of them takes writes, too.
    """
    ours = {host.address for host in cluster.tier("db")}
    used = {
        host.name: set(hosts.facts(host.name)["database_hosts"]) - ours
        for host in cluster.tier("web")
        if hosts.in_this_run(host.name)
    }
    addresses = sorted(set().union(*used.values()))
    # An empty one beside an old one is what the user has asked for in so many words.
    if not addresses or primary.name not in held or not held[primary.name].present:
        return
    asked = [host for host in inventory.get_active_hosts() if host.name == primary.name]
    stdin = ask_peers(addresses, cluster.settings.db.port)
    others = hosts.ask_all(asked, Peers, _stdin=stdin)[primary.name]
    webs = [name for name, used_by in used.items() if used_by]
    if said := second_writers(others, primary.name, held[primary.name], webs):
        raise PrimaryError(said)


def ask(cluster: Cluster, host: Host, passwords: bool = False) -> str:
    """Return the standard input of `DbState` for a host."""
    names = [site.database for site in cluster.sites]
    return look(host.address, cluster.settings.db.port, names, passwords)


def db_states(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """Ask all db hosts of this run at once; return what each says (`DbState`), by name."""
    members = {host.name: host for host in cluster.tier("db")}
    asked = {
        host.name: gevent.spawn(
            hosts.ask_all, [host], DbState, _stdin=ask(cluster, members[host.name], passwords=True)
        )
        for host in inventory.get_active_hosts()
        if host.name in members
    }
    return {name: greenlet.get()[name] for name, greenlet in asked.items()}


def _replaced(primary: Host, states: Mapping[str, dict[str, Any]]) -> dict[str, Replaced]:
    """Return which standbys cannot follow, and what becomes of their data."""
    slots = states[primary.name].get("slots", ())
    lost = [slot["name"] for slot in slots if slot["wal_status"] == "lost"]
    names = [
        name
        for name, state in states.items()
        if state.get("standby")
        and (slot_name(name) in lost or not (state["running"] and streams(state)))
    ]
    if not names:
        return {}
    # The primary last: so what is no more than a copy of it is not ahead of it.
    copies = _copies(names)
    copies |= _copies([primary.name], [copy.checkpoint for copy in copies.values()])
    found = {}
    for name in names:
        copy, source = copies[name], copies[primary.name]
        if rebuild := decide_rebuild(name, copy, source):
            why = f"{rebuild.reason}; copies {source.bytes // 1024**2} MiB from {primary.name}"
            stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            aside = f"{DATA_DIRECTORY}.aside-{stamp}" if rebuild.keep else ""
            if aside:
                why += f"; what it holds is moved to {aside}"
            if rebuild.first:
                why += "; the old copy is deleted first, as there is no room for both"
            found[name] = Replaced(copy.timeline, copy.end, aside, rebuild.first, why)
    return found


def _copies(
    names: Collection[str], checkpoints: Collection[tuple[int, int]] = ()
) -> dict[str, Copy]:
    asked = [host for host in inventory.get_active_hosts() if host.name in names]
    found = hosts.ask_all(asked, CopyState, _stdin=look_at_copy(checkpoints))
    return {
        name: Copy(
            **{
                **said,
                "forks": {int(n): end for n, end in said["forks"].items()},
                "checkpoint": tuple(said["checkpoint"]),
                "never_made": {(timeline, lsn) for timeline, lsn in said["never_made"]},
            }
        )
        for name, said in found.items()
    }


def held_by(state: Mapping[str, Any]) -> DataDirectory:
    """Return what a host holds, as it said (`DbState`)."""
    return DataDirectory(
        present=state["present"],
        standby=state["standby"],
        system_id=state["system_id"],
        timeline=state["timeline"],
        configured=state["configured"],
        made_way_for=state["made_way_for"],
    )
