"""PostgreSQL as pyinfra lacks it: its state in one fact, its data directory, its roles and databases.

Reason: pyinfra's `postgresql.*` show passwords in argument lists, paste them unescaped, always
report a change, and know neither data directories nor standbys, slots, rights and extensions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pyinfra import host, logger
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

from tierstack.model.passwords import same_password, scram_verifier
from tierstack.model.plan import Action, Effect
from tierstack.model.primary import SLOT_PREFIX
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.gate import Refuse, executing
from tierstack.operations.remote import RemoteFact, program, run

_AGENT = "postgres_agent.py"
_GUARD = "db_guard.py"
_SALT_BYTES = 16


class DbState(RemoteFact):
    """
    All that is to be known of PostgreSQL on one host, in one execution; `{}` without python3.

    Pass `_stdin=look(address, port, databases)`. Always there, also when the server is down:

        installed    bool: PostgreSQL 15's programs are there
        present      bool: something lies in the data directory
        configured   bool: /etc/postgresql/15/main/postgresql.conf is there
        access       [line of pg_hba.tierstack.conf that lets somebody in over the network]
        standby      bool: standby.signal is there
        made_way_for str: the host for which it stopped being the primary; "" once it follows
        shut_down    bool: its server has ended in order, as a primary
        unfinished   bool: a run was cut off while it made the data directory, or is still at it
        system_id    str: "" if the data cannot be read
        timeline     int, checksums bool, limits {"max_connections": int, "max_wal_senders": int}
        running      bool: it answers on its local socket
        accepts      bool: it answers at the cluster address
        problem      str: why it does not answer, though it has been started

    Only while it runs:

        version          str, e.g. "15.13"
        in_recovery      bool
        pending_restart  [setting]
        lag_bytes        int, received but not replayed; None on a primary
        lag_s            float, age of what was replayed last; 0 if all was; None if not streaming
        receiver         {"status": "streaming", "sender": address, "slot": name}, or None
        standbys         [{"name", "address", "state", "sync", "lag_bytes"}] of a primary
        slots            [{"name", "active", "wal_status", "lost_at", "kept_bytes"}]; lost_at: when
                         it was given up, "2026-01-31 14:05" in UTC, or None
        roles            {name: {"login", "superuser", "replication", "createdb", "createrole"}},
                         with `passwords` also "salt", "iterations" and "digest": the SHA-256 of
                         the verifier, "" where there is none
        databases        {name: {"owner", "encoding", "open"}}, those asked for also with
                         "extensions" and "public_owner"; open: everybody may connect
        available        [extension that can be created]
    """

    @staticmethod
    def default() -> dict[str, Any]:
        return {}


def streams(state: Mapping[str, Any]) -> bool:
    """Return whether a server that runs (`DbState`) receives a primary's WAL."""
    return bool(state["receiver"]) and state["receiver"]["status"] == "streaming"


def look(address: str, port: int, databases: Sequence[str] = (), passwords: bool = False) -> str:
    """
    Return the standard input of `DbState`.

    Args:
        address: the host's address in the cluster, to see whether PostgreSQL answers there.
        port: its port.
        databases: which databases to look into.
        passwords: whether to say of each role what tells if its password is the right one.
    """
    return program(
        _AGENT,
        {
            "verb": "look",
            "address": address,
            "port": port,
            "databases": list(databases),
            "passwords": passwords,
        },
    )


class Peers(RemoteFact):
    """
    What PostgreSQL servers at other addresses are, by address, as a db host sees them.

    Pass `_stdin=ask_peers(addresses, port)`. Of each: "is", "system_id", "timeline" and "said", as
    `ask` in db_guard.py tells.
    """


def ask_peers(addresses: Sequence[str], port: int) -> str:
    """Return the standard input of `Peers`."""
    return program(_GUARD, {"addresses": list(addresses), "port": port})


def guard_program() -> str:
    """Return the source of what keeps a former primary from taking writes when it starts."""
    return (Path(__file__).parent / _GUARD).read_text(encoding="utf-8")


class CopyState(RemoteFact):
    """The fields of `Copy` in model/primary.py, of the data directory that is there."""


def look_at_copy(checkpoints: Iterable[tuple[int, int]] = ()) -> str:
    """
    Return the standard input of `CopyState`.

    Args:
        checkpoints: timeline and position of checkpoints of which it says whether it never made them.
    """
    return program(_AGENT, {"verb": "copy", "checkpoints": list(checkpoints)})


@dataclass(frozen=True)
class Replaced:
    """
    A data directory that may be replaced, as it was found.

    Args:
        timeline: as of `Copy` in model/primary.py; it is left alone if it is another by then.
        end: the same.
        aside: where it is moved to, "" to delete it.
        first: whether it is deleted before the new one is made.
        why: why it is not to stay, and what is done instead, in words.
    """

    timeline: int
    end: int
    aside: str
    first: bool
    why: str


@dataclass(frozen=True)
class Source:
    """
    Where a standby is copied from.

    Args:
        conninfo: libpq's, without password and files.
        slot: the standby's replication slot on the primary.
        system_id: the primary's; "" where this run makes the primary.
        ca_certificate: PEM of the authority that has signed the primary's certificate.
        pgpass: password file for the connection.
    """

    conninfo: str
    slot: str
    system_id: str
    ca_certificate: str = field(repr=False)
    pgpass: str = field(repr=False)


@operation()
def data_directory(
    state: dict[str, Any],
    port: int,
    source: Source | None = None,
    replaced: Replaced | None = None,
) -> Generator[Foreseen, None, None]:
    """
    Make PostgreSQL's data directory where there is none; never touch one that is not `replaced`.

    Args:
        state: the host's `DbState` at the start of the run.
        port: PostgreSQL's port.
        source: the primary to copy; without one an empty database is made.
        replaced: the standby's data directory that is not to stay.
    """
    units: tuple[tuple[Action, str], ...] = ()
    if replaced:
        note = f"rebuilds the standby on {host.name}: {replaced.why}"
        units = (("restart", "postgresql@15-main.service"),) if state["running"] else ()
    elif not (state["present"] and state["configured"]):
        note = "copies the primary's database" if source else "makes an empty database"
    elif state["unfinished"]:
        note = "clears up after a run that was cut off"
    else:
        return
    if replaced and executing():
        logger.info(f"{host.print_prefix}{note}")
    request = {
        "verb": "make",
        "port": port,
        "source": asdict(source) if source else None,
        "replaces": asdict(replaced) if replaced else None,
    }
    yield run(_AGENT, request, Effect(notes=(note,), units=units))


@dataclass(frozen=True)
class Role:
    """
    A database role that may log in.

    Args:
        name: its name.
        password: any text without a line break.
        replication: it may stream the whole database, and nothing else.
    """

    name: str
    password: str = field(repr=False)
    replication: bool = False


@dataclass(frozen=True)
class Database:
    """A database, the role that owns it, and the extensions in it."""

    name: str
    owner: str
    extensions: tuple[str, ...] = ()


@operation()
def databases(
    ask: str, roles: Sequence[Role], databases: Sequence[Database], slots: Sequence[str]
) -> Generator[PyinfraCommand, None, None]:
    """
    Have roles, databases and replication slots on the primary; what else is there stays.

    Roles get their password when they are made. One that is there keeps it until `role_passwords`,
    unless it is for replication: standbys follow within their tier.

    Args:
        ask: standard input of `DbState`, from `look` with `passwords`.
        roles: who may log in.
        databases: which databases there are; only their owners may connect.
        slots: physical replication slots.
    """
    state = host.get_fact(DbState, _stdin=ask)
    if not state.get("running"):
        if executing():
            yield Refuse(f"PostgreSQL does not answer: {state.get('problem') or 'it does not run'}")
        else:
            # One that is there and stands still may have them all.
            there = state.get("present") and state.get("configured")
            effect = Effect(
                notes=("makes what is missing",),
                condition="if any are missing, which cannot be told now" if there else "",
            )
            yield run(_AGENT, {"verb": "sql", "statements": []}, effect)
        return
    unknown = sorted(
        {name for wanted in databases for name in wanted.extensions} - set(state["available"])
    )
    if unknown:
        yield Refuse(
            f"extensions: PostgreSQL on {host.name} has no {', '.join(unknown)};"
            " install the Debian package that brings it on every db host, or correct the name"
        )
        return
    statements = [
        *((MAINTENANCE, sql) for role in roles for sql in _role_sql(role, state["roles"])),
        *(pair for wanted in databases for pair in _database_sql(wanted, state["databases"])),
        *((MAINTENANCE, sql) for sql in slot_sql(slots, state["slots"])),
    ]
    if statements:
        yield _sql(statements)


def _sql(statements: Sequence[tuple[str, str]]) -> Foreseen:
    # A verifier is as good as a password to who may read it.
    notes = tuple(
        _WITHOUT_VERIFIER.sub(r"\1 (hidden)", " ".join(sql.split())) for _, sql in statements
    )
    return run(_AGENT, {"verb": "sql", "statements": statements}, Effect(notes=notes))


_WITHOUT_VERIFIER = re.compile(r"( PASSWORD) '.*'")
MAINTENANCE = "postgres"


def _role_sql(role: Role, found: dict[str, Any]) -> Iterable[str]:
    rights = {
        "login": True,
        "superuser": False,
        "createdb": False,
        "createrole": False,
        "replication": role.replication,
    }
    now = found.get(role.name)
    name = quoted_name(role.name)
    words = " ".join(
        right.upper() if given else f"NO{right.upper()}" for right, given in rights.items()
    )
    if now is None:
        yield f"CREATE ROLE {name} {words};"
    elif {right: now[right] for right in rights} != rights:
        yield f"ALTER ROLE {name} {words};"
    if now is None or role.replication:
        yield from _password_sql(role, now)


def _password_sql(role: Role, now: dict[str, Any] | None) -> Iterable[str]:
    if not now or not same_password(role.password, now["salt"], now["iterations"], now["digest"]):
        verifier = scram_verifier(role.password, os.urandom(_SALT_BYTES))
        yield f"ALTER ROLE {quoted_name(role.name)} PASSWORD '{verifier}';"


def _database_sql(wanted: Database, found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    now = found.get(wanted.name, {})
    name, owner = quoted_name(wanted.name), quoted_name(wanted.owner)
    if not now:
        yield (
            MAINTENANCE,
            f"CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING 'UTF8'"
            " LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8';",
        )
    elif now["owner"] != wanted.owner:
        yield MAINTENANCE, f"ALTER DATABASE {name} OWNER TO {owner};"
    if now.get("open", True):
        yield MAINTENANCE, f"REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC;"
    # A database without the schema is the site's own doing.
    if now.get("public_owner", "") not in (wanted.owner, None):
        yield wanted.name, f"ALTER SCHEMA public OWNER TO {owner};"
    for extension in wanted.extensions:
        if extension not in now.get("extensions", ()):
            yield wanted.name, f"CREATE EXTENSION {quoted_name(extension)};"


def slot_sql(wanted: Sequence[str], found: Sequence[dict[str, Any]]) -> Iterable[str]:
    # WAL is kept from the slot's making on, so that a copy that starts later misses nothing; one
    # that has lost its place would keep none until it is used.
    for name in sorted(set(wanted)):
        status = next((slot["wal_status"] for slot in found if slot["name"] == name), "")
        if status == "lost":
            yield _DROP_SLOT.format(_text(name))
        if status in ("", "lost"):
            yield f"SELECT pg_create_physical_replication_slot({_text(name)}, true);"


@operation()
def role_passwords(
    state: dict[str, Any], ask: str, roles: Sequence[Role]
) -> Generator[Foreseen, None, None]:
    """
    Set the passwords of roles that had another one when the run began.

    Args:
        state: the primary's `DbState` at the start of the run; asked again if it did not run then.
        ask: standard input of `DbState`, from `look` with `passwords`.
        roles: who may log in; `databases` has made those that were missing, with their password.
    """
    if not state["running"]:
        state = host.get_fact(DbState, _stdin=ask)
    found = state.get("roles", {})
    statements = [
        (MAINTENANCE, sql)
        for role in roles
        if role.name in found
        for sql in _password_sql(role, found[role.name])
    ]
    if statements:
        yield _sql(statements)


@operation()
def only_slots(
    state: dict[str, Any], ask: str, slots: Sequence[str]
) -> Generator[Foreseen, None, None]:
    """
    Drop replication slots of ours that no standby of the inventory uses.

    Args:
        state: the primary's `DbState` at the start of the run; asked again if it did not run then.
        ask: standard input of `DbState`, from `look`.
        slots: which slots stay; those not made by Tierstack stay too.

    The host of such a slot may no longer log in, so its connection, if one is left, is ended.
    """
    if not state["running"]:
        state = host.get_fact(DbState, _stdin=ask)
    gone = [
        slot["name"]
        for slot in state.get("slots", ())
        if slot["name"].startswith(SLOT_PREFIX) and slot["name"] not in slots
    ]
    if gone:
        sql = "".join(_DROP_SLOT.format(_text(name)) for name in gone)
        effect = Effect(notes=tuple(f"drops the slot {name}" for name in gone))
        yield run(_AGENT, {"verb": "sql", "statements": [(MAINTENANCE, sql)]}, effect)


# One that is gone already, as its host was copied anew meanwhile, is no error.
_DROP_SLOT = """
SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
    WHERE slot_name = {0} AND active;
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {0};
"""


def quoted_name(name: str) -> str:
    """Return a name as SQL and pg_hba want it."""
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
