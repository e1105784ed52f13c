"""
PostgreSQL on the db hosts: one primary, the others its standbys.

The configuration is the same on all of them, since any may become the primary; who is the primary
now is read from the hosts. Source: PostgreSQL 15 manual, chapters 20, 21 and 27.
"""

from __future__ import annotations

from collections.abc import Callable

import pyinfra
from pyinfra.api.exceptions import PyinfraError

from roles.db.configuration import REPLICATION_ROLE, configured, limits, outdated, source
from roles.db.survey import Survey, ask, survey
from tierstack import hosts
from tierstack.model import UNITS, Cluster, Host, TierstackError
from tierstack.model.passwords import check_password
from tierstack.model.primary import CONFIG_DIRECTORY, slot_name
from tierstack.operations.gate import gate
from tierstack.operations.postgres import (
    Database,
    DbState,
    Role,
    data_directory,
    databases,
    only_slots,
    role_passwords,
    streams,
)
from tierstack.operations.retired import retired
from tierstack.operations.switchover import finished
from tierstack.secrets import Secrets

__all__ = ["answers", "deploy", "drop_removed", "passwords", "retire", "survey"]

_CONFIGURED = "PostgreSQL runs with its settings, access rules and certificate"


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """
    Bring a db host to its part: the primary with roles and databases, or a standby that streams.

    The gates keep the hosts in step: operations of one host alone would run beside the other's.
    """
    roles = _roles(cluster, secrets)
    found = survey(cluster)
    state, is_primary = found.states[host.name], host.name == found.primary.name
    replaced = found.replaced.get(host.name)
    # Nobody is shut out yet: what served before serves on, whatever becomes of this run.
    old_rules = outdated(cluster, state)
    # Limits are raised on standbys first and lowered on the primary first: a standby with less
    # than its primary does not start (manual, 27.4.3).
    lowers = _lowers(cluster, found)
    there = state["present"] and state["configured"] and not replaced
    standby_first = not is_primary and there and not lowers

    if is_primary:
        data_directory(
            name="Primary has its data directory", state=state, port=cluster.settings.db.port
        )
    if standby_first:
        configured(_CONFIGURED, cluster, host, secrets, old_rules)
    gate(name="Standbys are ready for the primary's settings", before="the primary's settings")
    if is_primary:
        configured(_CONFIGURED, cluster, host, secrets, old_rules)
        databases(
            name="Roles, databases and replication slots are in place",
            ask=ask(cluster, host, passwords=True),
            roles=roles,
            databases=[
                Database(site.database, site.database, tuple(site.settings.extensions))
                for site in cluster.sites
            ],
            slots=_slots(cluster, host),
        )
    gate(
        name="Primary lets standbys in",
        before="the standbys",
        answers=_limits_followed(cluster, host)
        if state["standby"] and lowers and not replaced
        else None,
    )
    if not is_primary:
        data_directory(
            name="Standby is a copy of its primary",
            state=state,
            port=cluster.settings.db.port,
            source=source(cluster, host, found, secrets),
            replaced=replaced,
        )
    if not is_primary and not standby_first:
        configured(_CONFIGURED, cluster, host, secrets, old_rules)


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where there is nothing to ask."""
    if "db" not in host.tiers:
        return None
    primary = survey(cluster).primary

    def check() -> str:
        state = pyinfra.host.get_fact(DbState, _stdin=ask(cluster, host))
        if not state.get("running"):
            return f"PostgreSQL does not answer: {state.get('problem') or 'it does not run'}"
        if not state["accepts"]:
            return f"PostgreSQL does not answer on {host.address}:{cluster.settings.db.port}"
        if host.name == primary.name:
            return "PostgreSQL is no longer the primary" if state["in_recovery"] else ""
        if streams(state):
            return ""
        return f"it does not stream from {primary.name}; type on it: journalctl -t postgres -n 20"

    return check


def passwords(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Set the sites' passwords, once every web node has them: until then the old ones serve."""
    found = survey(cluster)
    if host.name == found.primary.name:
        role_passwords(
            name="Sites log in with their passwords",
            state=found.states[host.name],
            ask=ask(cluster, host, passwords=True),
            roles=[role for role in _roles(cluster, secrets) if not role.replication],
        )


def drop_removed(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Shut out hosts that have left the inventory, and keep WAL for nobody but the standbys."""
    found = survey(cluster)
    if outdated(cluster, found.states[host.name]):
        configured("PostgreSQL lets in nobody else", cluster, host, secrets)
    if host.name == found.primary.name:
        only_slots(
            name="No WAL is kept for removed standbys",
            state=found.states[host.name],
            ask=ask(cluster, host),
            slots=_slots(cluster, host),
        )
    else:
        # What it kept as a primary, or was about to keep as one.
        only_slots(
            name="No WAL is kept on a standby",
            state=found.states[host.name],
            ask=ask(cluster, host),
            slots=[],
        )
        finished(
            name="A former primary is a standby like any other",
            made_way_for=found.states[host.name]["made_way_for"],
        )


def retire(host: Host) -> None:
    """
    Stop PostgreSQL on a host that has left the tier, at the end of a good run; its data stays.

    Where it runs on, it is a copy that nobody looks after, beside what the host is for now.
    """
    if "db" not in host.tiers and "db" in hosts.facts(host.name)["stamps"]:
        retired(
            name="PostgreSQL of a former db host is stopped, and its data stays",
            units={"db": UNITS["db"]},
            # Else Debian starts it at boot, whatever systemd was told.
            first=f"echo manual > {CONFIG_DIRECTORY}/start.conf",
        )


def _roles(cluster: Cluster, secrets: Secrets) -> list[Role]:
    key_of = {REPLICATION_ROLE: "cluster.replication_password"}
    for site in cluster.sites:
        key_of[site.database] = f"sites.{site.name}.database_password"
    try:
        for key in key_of.values():
            check_password(key, secrets[key])
    except TierstackError as error:
        raise PyinfraError(f"{secrets.file.name}: {error}") from None
    return [Role(name, secrets[key], name == REPLICATION_ROLE) for name, key in key_of.items()]


def _slots(cluster: Cluster, primary: Host) -> list[str]:
    return [slot_name(host.name) for host in cluster.tier("db") if host.name != primary.name]


def _lowers(cluster: Cluster, found: Survey) -> bool:
    now = found.states[found.primary.name]["limits"]
    return any(now.get(name, 0) > wanted for name, wanted in limits(cluster).items())


def _limits_followed(cluster: Cluster, host: Host) -> Callable[[], str]:
    """Return a check that a standby has replayed its primary's lower limits."""

    def check() -> str:
        state = pyinfra.host.get_fact(DbState, _stdin=ask(cluster, host))
        now = state["limits"]
        late = [name for name, wanted in limits(cluster).items() if now.get(name, 0) > wanted]
        if not late:
            return ""
        return f"it has not replayed its primary's lower {late[0]}; see that PostgreSQL runs on it"

    return check
