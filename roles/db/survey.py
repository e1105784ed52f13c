"""Who is the primary, and what each db host holds: asked once a run, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.lock import RLock
from pyinfra import inventory
from pyinfra.api.exceptions import PyinfraError

from tierstack import hosts
from tierstack.model import Cluster, Host, TierstackError
from tierstack.model.primary import DataDirectory, decide_primary
from tierstack.operations.postgres import DbState, look


@dataclass(frozen=True)
class Survey:
    """The primary, and what each db host of this run said of itself (`DbState`), by name."""

    primary: Host
    states: Mapping[str, dict[str, Any]]


_survey: Survey | None = None
_lock = RLock()


def survey(cluster: Cluster) -> Survey:
    """
    Return who is the primary; ask all db hosts once a run.

    Raises:
        PyinfraError: it cannot be told; no host was changed.
    """
    global _survey
    with _lock:
        if _survey is None:
            _survey = _ask_hosts(cluster)
        return _survey


def ask(cluster: Cluster, host: Host, passwords: bool = False) -> str:
    """Return the standard input of `DbState` for a host."""
    names = [site.database for site in cluster.sites]
    return look(host.address, cluster.settings.db.port, names, passwords)


def _ask_hosts(cluster: Cluster) -> Survey:
    members = {host.name: host for host in cluster.tier("db")}
    asked = {
        host.name: gevent.spawn(
            hosts.ask_all, [host], DbState, _stdin=ask(cluster, members[host.name], passwords=True)
        )
        for host in inventory.get_active_hosts()
        if host.name in members
    }
    states = {name: greenlet.get()[name] for name, greenlet in asked.items()}
    held = {name: _held(state) for name, state in states.items() if state}
    try:
        primary = decide_primary(held, list(members))
    except TierstackError as error:
        raise PyinfraError(str(error)) from None
    return Survey(members[primary], states)


def _held(state: Mapping[str, Any]) -> DataDirectory:
    return DataDirectory(
        present=state["present"],
        standby=state["standby"],
        system_id=state["system_id"],
        timeline=state["timeline"],
        configured=state["configured"],
    )
