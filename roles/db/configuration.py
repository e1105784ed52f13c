"""What PostgreSQL is configured with: its files, and how a standby reaches its primary."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from roles.db.survey import Survey
from tierstack.model import Cluster, Host
from tierstack.model.passwords import pgpass_line
from tierstack.model.plan import Rules
from tierstack.model.primary import CONFIG_DIRECTORY, slot_name
from tierstack.model.sizing import postgres_memory
from tierstack.operations.config import Directory, Entry, File, Unit, config, template
from tierstack.operations.postgres import Source, guard_program, quoted_name
from tierstack.secrets import Secrets

REPLICATION_ROLE = "tierstack_replication"

_CONFIG = CONFIG_DIRECTORY
_HBA = f"{_CONFIG}/pg_hba.tierstack.conf"
#: An access rule as we write it: what else is in the file is no earlier inventory's.
_OUR_RULE = re.compile(r"hostssl \S+ \S+ [0-9.]+/32 scram-sha-256")
_OURS = "/etc/tierstack/postgresql"
_GUARD = "/usr/local/lib/tierstack/db-guard"
_UNIT = "postgresql@15-main.service"

#: How long a host may leave what a standby sends it unacknowledged, in ms; then the next one is tried.
_SILENCE_MS = 10_000

#: Base backups stream WAL beside the standbys' own connections.
_EXTRA_SENDERS = 4


def configured(
    name: str, cluster: Cluster, host: Host, secrets: Secrets, old_rules: Sequence[str] = ()
) -> None:
    """Have PostgreSQL run with its files, and with old access rules beside the wanted ones."""
    config(
        name=name,
        stamp="db",
        entries=_files(cluster, host, secrets, old_rules),
        check=template("db/check.sh.j2", ours=_OURS, config=_CONFIG).decode(),
        units=[Unit(_UNIT)],
    )


def outdated(cluster: Cluster, state: Mapping[str, Any]) -> list[str]:
    """Return the access rules that were on a host when the run began, and should not stay."""
    wanted = rules(cluster)
    return [line for line in state["access"] if _OUR_RULE.fullmatch(line) and line not in wanted]


def limits(cluster: Cluster) -> dict[str, int]:
    """Return the settings of which a standby may not have less than its primary."""
    db = cluster.settings.db
    return {
        "max_connections": db.max_connections,
        "max_wal_senders": db.max_standbys + _EXTRA_SENDERS,
    }


def source(cluster: Cluster, host: Host, found: Survey, secrets: Secrets) -> Source:
    """Return where a standby is copied from."""
    return Source(
        conninfo=_conninfo(cluster, host, [found.primary]),
        slot=slot_name(host.name),
        system_id=found.states[found.primary.name]["system_id"],
        ca_certificate=secrets["cluster.ca_certificate"],
        pgpass=_pgpass(cluster, host, secrets),
    )


def _files(
    cluster: Cluster, host: Host, secrets: Secrets, old_rules: Sequence[str] = ()
) -> list[Entry]:
    db, memory = cluster.settings.db, postgres_memory(cluster, host)
    others = _others(cluster, host)
    conninfo = _conninfo(cluster, host, others)
    if others:
        # A walreceiver knows no connect_timeout: past a host without power it would come to the
        # primary only when TCP gives up, after two minutes.
        conninfo += (
            f" tcp_user_timeout={_SILENCE_MS}"
            f" sslrootcert={_OURS}/ca.crt passfile={_OURS}/replication.pgpass"
        )
    return [
        Directory(_OURS),
        File(f"{_OURS}/ca.crt", secrets["cluster.ca_certificate"].encode()),
        File(f"{_OURS}/server.crt", secrets[f"hosts.{host.name}.certificate"].encode()),
        File(
            f"{_OURS}/server.key",
            secrets[f"hosts.{host.name}.key"].encode(),
            mode="640",
            group="postgres",
        ),
        # libpq wants it to be nobody's but the reader's.
        File(
            f"{_OURS}/replication.pgpass",
            _pgpass(cluster, host, secrets).encode(),
            mode="600",
            owner="postgres",
            group="postgres",
        ),
        # Whom the guard asks.
        File(
            f"{_OURS}/peers.json",
            json.dumps(
                {
                    "port": db.port,
                    "peers": {other.name: other.address for other in others},
                    "ssh_ports": {other.address: other.ssh_port for other in others},
                }
            ).encode(),
        ),
        Directory(_GUARD.rpartition("/")[0]),
        File(_GUARD, template(f"db{_GUARD}.j2", program=guard_program()), mode="755"),
        File(
            f"/etc/systemd/system/{_UNIT}.d/tierstack.conf",
            template(f"db/etc/systemd/system/{_UNIT}.d/tierstack.conf.j2", guard=_GUARD),
        ),
        File(
            _HBA,
            template(f"db{_HBA}.j2", rules=sorted([*rules(cluster), *old_rules])),
            mode="640",
            group="postgres",
            rules=Rules("line of pg_hba", "lines of pg_hba", _OUR_RULE.pattern),
        ),
        File(
            f"{_CONFIG}/conf.d/50-tierstack.conf",
            template(
                f"db{_CONFIG}/conf.d/50-tierstack.conf.j2",
                address=host.address,
                port=db.port,
                shared_buffers_mb=memory.shared_buffers_mb,
                hba_file=_HBA,
                max_replication_slots=db.max_standbys,
                **limits(cluster),
            ),
            needs="restart",
        ),
        File(
            f"{_CONFIG}/conf.d/60-tierstack-reload.conf",
            template(
                f"db{_CONFIG}/conf.d/60-tierstack-reload.conf.j2",
                directory=_OURS,
                effective_cache_mb=memory.effective_cache_mb,
                work_mb=memory.work_mb,
                maintenance_mb=memory.maintenance_mb,
                primary_conninfo=conninfo,
                slot=slot_name(host.name),
                slot_keep_mb=db.slot_keep_mb,
            ),
        ),
    ]


def rules(cluster: Cluster) -> list[str]:
    """Return the lines of pg_hba that the flows ask for; no two fit one connection."""
    found = []
    for flow in cluster.flows:
        if flow.target != "db" or flow.port != cluster.settings.db.port:
            continue
        for address in sorted(host.address for host in cluster.tier(flow.source)):
            if flow.source == "db":
                found.append(_rule("replication", REPLICATION_ROLE, address))
                continue
            for site in cluster.sites:
                name = quoted_name(site.database)
                found.append(_rule(name, name, address))
    return found


def _rule(database: str, role: str, address: str) -> str:
    return f"hostssl {database} {role} {address}/32 scram-sha-256"


def _others(cluster: Cluster, host: Host) -> list[Host]:
    return [other for other in cluster.tier("db") if other.name != host.name]


def _conninfo(cluster: Cluster, host: Host, servers: Sequence[Host]) -> str:
    """
    Return how `host` reaches whichever of `servers` is the primary, or "" when there are none.

    The authority is the cluster's own and signs for nobody else. Not verify-full: a host whose
    address changes in the inventory keeps its certificate.
    """
    if not servers:
        return ""
    addresses = ",".join(server.address for server in servers)
    return (
        f"host={addresses} port={cluster.settings.db.port} user={REPLICATION_ROLE}"
        f" application_name={host.name} target_session_attrs=read-write sslmode=verify-ca"
        " gssencmode=disable connect_timeout=5"
        " keepalives_idle=10 keepalives_interval=5 keepalives_count=3"
    )


def _pgpass(cluster: Cluster, host: Host, secrets: Secrets) -> str:
    password = secrets["cluster.replication_password"]
    return "".join(
        pgpass_line(other.address, cluster.settings.db.port, REPLICATION_ROLE, password) + "\n"
        for other in _others(cluster, host)
    )
