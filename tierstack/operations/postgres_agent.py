"""Runs on a db host, never imported on the controller: looks at PostgreSQL, makes a data directory.

It is sent over standard input together with one JSON object, so that no password stands in an
argument list. It needs nothing but Debian's python3 and PostgreSQL's own programs.

    {"verb": "look", "address": "10.0.0.21", "port": 5432, "databases": [...],
     "passwords": false}
    {"verb": "copy", "checkpoints": [[1, 50331688]]}
    {"verb": "make", "port": 5432, "source": null or {...}, "replaces": null or {...}}
    {"verb": "sql",  "statements": [[database, sql], ...]}
    {"verb": "ask",  "database": "postgres", "sql": "SELECT …"}      prints what it finds, as JSON

    A switchover's steps, of which those that say something print one JSON object:

    {"verb": "checkpoint"}
    {"verb": "replayed", "past": "0/3000028", "patience_s": 10}
    {"verb": "stop", "patience_s": 10, "back_s": 20}
    {"verb": "made_way"}
    {"verb": "make_way", "for": "db2", "checkpoint": "0/3000028"}
    {"verb": "promote", "patience_s": 10}
    {"verb": "give_up"}
    {"verb": "return", "patience_s": 60}
    {"verb": "follow", "drop_slots": "SELECT …", "patience_s": 60}
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

#: In a directory of root's alone: whoever can open a lock can hold it.
LOCK = Path("/run/tierstack/locks/postgresql")
BIN = Path("/usr/lib/postgresql/15/bin")
DATA = Path("/var/lib/postgresql/15/main")
STAGE = DATA.parent / ".tierstack-new"
MARKER = STAGE / "made-by-tierstack"
CONFIG = Path("/etc/postgresql/15/main")
ACCESS = CONFIG / "pg_hba.tierstack.conf"
POSTMASTER = DATA / "postmaster.pid"
SIGNAL = DATA / "standby.signal"
UNIT = "postgresql@15-main.service"
Segment = namedtuple("Segment", ["path", "timeline", "start", "size"])
AS_POSTGRES = ("runuser", "-u", "postgres", "--")


class AgentError(Exception):
    """Told to the user in a sentence."""


# Look

# Every value comes from one snapshot. CASE keeps what a standby cannot answer from being asked.
STATE_SQL = r"""
SELECT json_build_object(
  'version', split_part(current_setting('server_version'), ' ', 1),
  'in_recovery', pg_is_in_recovery(),
  'pending_restart', (SELECT coalesce(json_agg(name ORDER BY name), '[]')
    FROM pg_settings WHERE pending_restart),
  'lag_bytes', CASE WHEN pg_is_in_recovery()
    THEN pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::bigint END,
  'lag_s', CASE WHEN pg_is_in_recovery()
    AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')
    THEN CASE WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
      ELSE round(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 1) END END,
  'receiver', (SELECT json_build_object('status', status, 'sender', sender_host, 'slot', slot_name)
    FROM pg_stat_wal_receiver),
  'standbys', (SELECT coalesce(json_agg(json_build_object(
      'name', application_name, 'address', host(client_addr), 'state', state,
      'sync', sync_state, 'lag_bytes', CASE WHEN pg_is_in_recovery() THEN NULL
        ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint END
    ) ORDER BY application_name), '[]') FROM pg_stat_replication),
  'slots', (SELECT coalesce(json_agg(json_build_object(
      'name', slot_name, 'active', active, 'wal_status', wal_status,
      -- Written when the slot is given up, and not again until it is used.
      'lost_at', CASE WHEN wal_status = 'lost' THEN to_char(
        (pg_stat_file('pg_replslot/' || slot_name || '/state', true)).modification
        AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') END,
      'kept_bytes', CASE WHEN pg_is_in_recovery() THEN NULL
        ELSE pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END
    ) ORDER BY slot_name), '[]') FROM pg_replication_slots),
  'roles', (SELECT json_object_agg(rolname, json_build_object(
      'login', rolcanlogin, 'superuser', rolsuper, 'replication', rolreplication,
      'createdb', rolcreatedb, 'createrole', rolcreaterole,
      'salt', coalesce(substring(rolpassword FROM '^SCRAM-SHA-256\$\d+:([^$]+)\$'), ''),
      'iterations', coalesce(substring(rolpassword FROM '^SCRAM-SHA-256\$(\d+):')::int, 0),
      'digest', coalesce(encode(sha256(convert_to(rolpassword, 'UTF8')), 'hex'), '')
    )) FROM pg_authid WHERE rolname !~ '^pg_'),
  'databases', (SELECT json_object_agg(datname, json_build_object(
      'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
      'open', has_database_privilege('public', oid, 'CONNECT')
    )) FROM pg_database),
  'available', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM pg_available_extensions)
);
"""

DATABASE_SQL = """
SELECT json_build_object(
  'extensions', (SELECT json_agg(extname ORDER BY extname) FROM pg_extension),
  'public_owner', (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'public')
);
"""


def look(request):
    """Print what is here as one JSON object; its shape is told in operations/postgres.py."""
    state = {
        "installed": (BIN / "postgres").exists(),
        "present": has_data(),
        "configured": (CONFIG / "postgresql.conf").exists(),
        "access": access(),
        "standby": SIGNAL.exists(),
        "made_way_for": made_way_for(),
        "unfinished": STAGE.exists(),
        "running": False,
        "accepts": False,
        "problem": "",
        **control(DATA),
    }
    if state["present"] and POSTMASTER.exists():
        try:
            state.update(ask("postgres", STATE_SQL), running=True)
        except AgentError as problem:
            state["problem"] = str(problem)
    if state["running"]:
        for role in state["roles"].values() if not request["passwords"] else ():
            for key in ("salt", "iterations", "digest"):
                del role[key]
        for name in sorted(set(request["databases"]) & set(state["databases"])):
            state["databases"][name].update(ask(name, DATABASE_SQL))
        state["accepts"] = listens(request["address"], request["port"])
    print(json.dumps(state))


def has_data():
    """Return whether anything lies where the data belongs; an empty directory is nothing."""
    if DATA.is_dir():
        return any(DATA.iterdir())
    return DATA.exists() or DATA.is_symlink()


def access():
    """Return the lines that let somebody in over the network."""
    if not ACCESS.exists():
        return []
    lines = ACCESS.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for line in lines if line.startswith("hostssl ")]


def control(directory):
    """Return what pg_controldata says of a database; it reads a file, so the server may be down."""
    said = controldata(directory)
    if "Database system identifier" not in said:
        return {
            "system_id": "",
            "timeline": 0,
            "checksums": False,
            "limits": {},
            "shut_down": False,
        }
    return {
        "system_id": said["Database system identifier"],
        # A promotion shows in the second at once, in the first after the next checkpoint.
        "timeline": max(
            int(said["Latest checkpoint's TimeLineID"]),
            int(said["Min recovery ending loc's timeline"]),
        ),
        "checksums": said["Data page checksum version"] != "0",
        "shut_down": said["Database cluster state"] == "shut down",
        "limits": {
            name: int(said[name + " setting"]) for name in ("max_connections", "max_wal_senders")
        },
    }


def controldata(directory):
    if not (directory / "PG_VERSION").exists() or not (BIN / "pg_controldata").exists():
        return {}
    lines = run(BIN / "pg_controldata", "-D", directory).stdout.splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {name: value.strip() for name, value in pairs}


def listens(address, port):
    """Return whether a port is open. pg_isready would leave a refused login in the log each time."""
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


# Copy


def copy_state(request):
    """Print how far the log of what is here goes, as `Copy` in model/primary.py tells."""
    segments = written_segments()
    timeline, end = log_end(segments)
    said = controldata(DATA)
    ran_as = said.get("Database cluster state", "")
    state = {
        "timeline": timeline,
        "end": end,
        "oldest": min((segment.start for segment in segments), default=0),
        # A standby asks for the whole segment in which its log ends.
        "asks": end - end % segments[-1].size if segments else 0,
        "forks": forks(timeline),
        "checkpoint": [
            int(said.get("Latest checkpoint's TimeLineID", 0)),
            position(said.get("Latest checkpoint location", "0/0")),
        ],
        "never_made": [
            (number, lsn)
            for number, lsn in request["checkpoints"]
            if lsn < {**forks(timeline), timeline: end}.get(number, 0) and never_made(number, lsn)
        ],
        # A copy that has not been started yet has its primary's state, and this label.
        "followed": ran_as in ("in archive recovery", "shut down in recovery")
        or (DATA / "backup_label").exists(),
        # A server that runs deletes files meanwhile, which du says and goes on.
        "bytes": int(run("du", "--summarize", "--block-size=1", DATA).stdout.split()[0]),
        "free_bytes": shutil.disk_usage(DATA.parent).free,
    }
    print(json.dumps(state))


def written_segments():
    """Return the log's segments in order, without those that are only kept for later use."""
    segments = []
    for path in sorted((DATA / "pg_wal").glob("[0-9A-F]" * 24)):
        timeline, high, low = (int(path.name[at : at + 8], 16) for at in (0, 8, 16))
        try:
            with path.open("rb") as file:
                # The first page says where it belongs (xlog_internal.h, XLogPageHeaderData).
                page, size = file.read(16), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            continue  # A server that runs removes segments meanwhile.
        start = (high << 32) + low * size
        if len(page) == 16 and struct.unpack("=HHIQ", page)[3] == start:
            segments.append(Segment(path, timeline, start, size))
    return segments


def log_end(segments):
    """Return the timeline and the end of the last record; 0 where there is none to be read."""
    if not segments:
        return 0, 0
    timeline = segments[-1].timeline
    # From the segment before: the last one may begin in the middle of its only record.
    last = [segment.path for segment in segments[-2:] if segment.timeline == timeline]
    # It fails where the log ends, having said how far it got.
    said = run(BIN / "pg_waldump", "--stats", *last).stdout
    found = re.match(r"WAL statistics between \S+ and (\S+):", said)
    return timeline, position(found[1]) if found else 0


def never_made(timeline, lsn):
    """Return whether the log, which goes further, proves that no checkpoint was written at an LSN."""
    options = [f"--path={DATA / 'pg_wal'}", f"--timeline={timeline}", "--limit=1"]
    # The first record that begins there, or later; where a segment was left early there is none.
    done = run(BIN / "pg_waldump", *options, f"--start={lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}")
    # Only now: a server that runs removes segments meanwhile.
    if not any(
        segment.timeline == timeline and segment.start <= lsn < segment.start + segment.size
        for segment in written_segments()
    ):
        return False
    if found := re.search(r", lsn: (\S+), .* desc: (\w+)", done.stdout):
        return position(found[1]) != lsn or not found[2].startswith("CHECKPOINT_")
    return "could not find a valid record" in done.stderr


def position(lsn):
    """Return an LSN in bytes since the log's beginning."""
    high, low = (int(word, 16) for word in lsn.split("/"))
    return (high << 32) + low


def forks(timeline):
    """Return where each timeline before this one was left, by its number."""
    history = DATA / "pg_wal" / f"{timeline:08X}.history"
    found = {}
    for line in history.read_text().splitlines() if history.exists() else ():
        if words := line.split("#")[0].split():
            found[int(words[0])] = position(words[1])
    return found


# SQL


def ask(database, sql):
    return json.loads(psql(database, sql, timeout_s=30))


def answer(request):
    """Print what a query finds, one value of JSON."""
    print(json.dumps(ask(request["database"], request["sql"])))


def psql(database, sql, timeout_s=None):
    """Run SQL as postgres over the local socket of the server that runs, whatever its port."""
    try:
        _, _, _, port, directory, *_ = POSTMASTER.read_text().splitlines()
    except (OSError, ValueError):
        raise AgentError("PostgreSQL does not run") from None
    # Terse: an error must not quote the statement, which may hold a password's verifier.
    options = ["-XqAtw", "--set=ON_ERROR_STOP=1", "--set=VERBOSITY=terse"]
    where = [f"--host={directory}", f"--port={port}", f"--dbname={database}"]
    limits = {"PGCONNECT_TIMEOUT": "5", "PGOPTIONS": "-c lock_timeout=20s"}
    # A server that hangs neither answers nor refuses.
    patience = [] if timeout_s is None else ["timeout", timeout_s]
    done = run(*patience, *AS_POSTGRES, "psql", *options, *where, stdin=sql, **limits)
    if patience and done.returncode == 124:
        raise AgentError(f"PostgreSQL hangs: no answer within {timeout_s} s")
    if done.returncode != 0:
        raise AgentError(said_by(done))
    return done.stdout.strip()


# Source: PostgreSQL 15 manual, 20.8: what these three settings would write to the log.
QUIET_SQL = """
SET log_statement = 'none'; SET log_min_duration_statement = -1;
SET log_min_error_statement = 'panic';
"""


def sql(request):
    for database, statements in request["statements"]:
        psql(database, QUIET_SQL + statements)


# Make


def make(request):
    """
    Make the data directory, empty or as a copy of the primary's, and the files that Debian expects.

    It is made beside its place and moved there when it is whole, so that a run that is cut off
    leaves either nothing or everything. What lies in place already is only replaced if it is what
    the request names.
    """
    # A first run whose controller has died may still be at it: wait for it, then look again.
    with LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        clear()
        try:
            if not has_data():
                stage(request["source"])
                place()
            elif request["replaces"]:
                replace(request["source"], request["replaces"])
        finally:
            clear()
        if not (CONFIG / "postgresql.conf").exists():
            configure(request["port"])


def clear():
    """Remove what a run has left half-way."""
    if not STAGE.exists():
        return
    left = [path for path in STAGE.iterdir() if path != MARKER]
    if left and not MARKER.exists():
        raise AgentError(f"{STAGE} is not ours; move it away, then deploy again")
    # The marker last: this may be cut off, too.
    run("rm", "-rf", *left)
    shutil.rmtree(STAGE)


def replace(source, old):
    """Put a new copy in place of a standby that cannot follow, which was `old` when it was judged."""
    make_stage()
    identify(source)
    served = not run("systemctl", "is-active", UNIT).returncode
    # It would take the slot that the new copy is made with.
    run("systemctl", "stop", UNIT)
    if not run(*AS_POSTGRES, BIN / "pg_ctl", "status", f"--pgdata={DATA}").returncode:
        as_postgres("pg_ctl", "stop", f"--pgdata={DATA}", "--mode=fast")  # Not systemd's child.
    try:
        if (old["timeline"], old["end"]) != log_end(written_segments()):
            return  # Another run has replaced it meanwhile, or it follows.
        gone = STAGE / "old"
        if old["first"]:
            DATA.rename(gone)
            shutil.rmtree(gone)
        stage(source)
        if not old["first"]:
            DATA.rename(old["aside"] or gone)
        place()
    finally:
        # One that does not start yet lacks settings, which come next and start it.
        if served:
            run("systemctl", "start", UNIT)


def make_stage():
    make_directory(DATA.parent, 0o755)
    make_directory(STAGE, 0o700)
    MARKER.touch()


def stage(source):
    make_stage()
    data = STAGE / "data"
    if source:
        copy(source, data)
    else:
        as_postgres(
            "initdb",
            f"--pgdata={data}",
            "--data-checksums",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--auth-local=peer",
            "--auth-host=scram-sha-256",
        )
    # Debian keeps these under /etc; what is in force must not be looked for here.
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        (data / name).unlink(missing_ok=True)


def place():
    if DATA.is_dir():
        DATA.rmdir()
    (STAGE / "data").rename(DATA)
    sync(DATA.parent)


def copy(source, data):
    """Copy a primary, verify the copy and make it a standby."""
    as_postgres(
        "pg_basebackup",
        f"--pgdata={data}",
        f"--dbname={connection(source)}",
        f"--slot={source['slot']}",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-password",
    )
    as_postgres("pg_verifybackup", "-q", data)
    check_identity(source, control(data)["system_id"])
    write(data / "standby.signal", "", 0o600)


def identify(source):
    """See that the primary answers: what goes first must not go in vain."""
    options = ["-XAtw", "-c", "IDENTIFY_SYSTEM", f"{connection(source)} replication=true"]
    done = run(*AS_POSTGRES, "psql", *options)
    if done.returncode != 0:
        raise AgentError(f"the primary does not answer: {said_by(done)}")
    check_identity(source, done.stdout.split("|")[0])


def connection(source):
    """Return libpq's words for a connection to the primary, having written the files that it needs."""
    authority, passwords = STAGE / "ca.crt", STAGE / "pgpass"
    write(authority, source["ca_certificate"], 0o600)
    write(passwords, source["pgpass"], 0o600)
    return f"{source['conninfo']} sslrootcert={authority} passfile={passwords}"


def check_identity(source, system_id):
    if source["system_id"] not in ("", system_id):
        raise AgentError(
            f"what answers at the primary's address has the system identifier {system_id}, and the"
            f" primary {source['system_id']}: it is another server"
        )


CONFIG_TEXT = """\
# Written by Tierstack once, when it made this database; yours from then on.
# What Tierstack sets stands in conf.d/, and wins.
data_directory = '{data}'
hba_file = '{config}/pg_hba.conf'
ident_file = '{config}/pg_ident.conf'
external_pid_file = '/run/postgresql/15-main.pid'
unix_socket_directories = '/var/run/postgresql'
cluster_name = '15/main'
port = {port}
include_dir = 'conf.d'
"""


def configure(port):
    """
    Write the files that make a data directory Debian's cluster 15/main; postgresql.conf last.

    pg_createcluster does it only for a directory with initdb's own configuration in it, and one
    that was cut off half-way refuses to run again.
    """
    for directory in (CONFIG.parent.parent, CONFIG.parent, CONFIG, CONFIG / "conf.d"):
        make_directory(directory, 0o755)
    write(CONFIG / "start.conf", "auto\n", 0o644)
    write(CONFIG / "pg_ctl.conf", "pg_ctl_options = ''\n", 0o644)
    write(CONFIG / "environment", "", 0o644)
    write(CONFIG / "pg_ident.conf", "", 0o640)
    write(CONFIG / "pg_hba.conf", "local all postgres peer\n", 0o640)
    text = CONFIG_TEXT.format(data=DATA, config=CONFIG, port=port)
    write(CONFIG / "postgresql.conf", text, 0o644)
    # As pg_createcluster does: systemd's generator and apt's autoremove learn of the cluster.
    run("systemctl", "daemon-reload")
    run("/usr/share/postgresql-common/pg_updateaptconfig")


# Switchover

BACK = "tierstack-switchover-back"
LSN = re.compile(r"[0-9A-F]+/[0-9A-F]+")


def made_way_for():
    """Return for whom this host stopped being the primary, until it follows; PostgreSQL ignores the note."""
    return SIGNAL.read_text().strip() if SIGNAL.exists() else ""


def checkpoint(request):
    """Make a checkpoint, so that a stop has little left to write, and print where it is."""
    sql = "CHECKPOINT; SELECT checkpoint_lsn FROM pg_control_checkpoint()"
    print(json.dumps({"checkpoint": psql("postgres", sql, timeout_s=120)}))


# One session that waits: a new one for each look costs as much as the whole wait.
WAIT_SQL = """
DO $$ BEGIN
  FOR i IN 1..{tries} LOOP EXIT WHEN {condition}; PERFORM pg_sleep(0.02); END LOOP;
END $$;
SELECT {condition};
"""


def holds(condition, patience_s, before=""):
    sql = before + WAIT_SQL.format(condition=condition, tries=int(patience_s / 0.02))
    return psql("postgres", sql, timeout_s=patience_s + 30).split()[-1] == "t"


def replayed(request):
    """Wait until a standby has replayed the record that begins at an LSN."""
    past = request["past"]
    if not LSN.fullmatch(past):
        raise AgentError(f"{past} is no LSN")
    condition = f"coalesce(pg_last_wal_replay_lsn() > '{past}', false)"
    if not holds(condition, request["patience_s"]):
        raise AgentError(f"it has not got what the primary wrote last, up to {past}")


def stop(request):
    """
    Stop the primary in order; print where its last checkpoint is.

    Unless it makes way in time, it starts again by itself, whatever has become of the run.
    """
    if SIGNAL.exists():
        raise AgentError("it is not the primary")
    disarm()
    seconds = request["back_s"]
    timer = [f"--unit={BACK}", f"--on-active={seconds}", "--timer-property=AccuracySec=1s"]
    done = run("systemd-run", "--quiet", "--collect", *timer, "systemctl", "start", UNIT)
    if done.returncode != 0:
        raise AgentError(said_by(done))
    if active_state() in ("active", "reloading"):
        # Not waited for: its own programs look ten times a second whether it has ended.
        systemctl("stop", "--no-block")
    elif POSTMASTER.exists():
        as_postgres("pg_ctl", "stop", f"--pgdata={DATA}", "--mode=fast")  # Not systemd's child.
    end = time.monotonic() + request["patience_s"]
    while POSTMASTER.exists():
        if time.monotonic() > end:
            raise AgentError(f"it does not stop within {request['patience_s']} s")
        time.sleep(0.01)
    print(json.dumps({"checkpoint": last_checkpoint()}))


def last_checkpoint():
    """Return where a server that has ended in order made its last checkpoint."""
    said = controldata(DATA)
    if said.get("Database cluster state") != "shut down":
        raise AgentError(f"it has not ended in order: {said.get('Database cluster state')}")
    return said["Latest checkpoint location"]


def made_way(request):
    """Print where the last checkpoint is of a host that has made way, whether or not it runs since."""
    if not made_way_for():
        raise AgentError("it has not made way")
    print(json.dumps({"checkpoint": controldata(DATA)["Latest checkpoint location"]}))


def make_way(request):
    """Make a primary that was stopped a standby, for good: from here on another may be promoted."""
    disarm()
    end = time.monotonic() + 5
    # systemd learns of the server's end a moment later.
    while (state := active_state()) == "active" and time.monotonic() < end:
        time.sleep(0.01)
    if POSTMASTER.exists() or state in ("active", "activating", "reloading"):
        raise AgentError("it has been started again meanwhile")
    if last_checkpoint() != request["checkpoint"]:
        raise AgentError("it has been written to meanwhile")
    write(SIGNAL, request["for"] + "\n", 0o600)
    sync(DATA)


def disarm():
    """Have it not started again by itself."""
    run("systemctl", "stop", f"{BACK}.timer", f"{BACK}.service")


def active_state():
    return run("systemctl", "is-active", UNIT).stdout.strip()


def promote(request):
    if not holds("NOT pg_is_in_recovery()", request["patience_s"], "SELECT pg_promote(false);"):
        raise AgentError(f"it does not become the primary within {request['patience_s']} s")


def give_up(request):
    """
    See that a standby that was told to become the primary does not do so later; print if it has.

    standby.signal goes before the first write is let in.
    """
    run("timeout", "10", "systemctl", "stop", UNIT)
    if POSTMASTER.exists():
        as_postgres("pg_ctl", "stop", f"--pgdata={DATA}", "--mode=immediate")
    promoted = not SIGNAL.exists()
    # What is left of pg_promote's request goes when the server starts.
    systemctl("start")
    print(json.dumps({"promoted": promoted}))


def come_back(request):
    """Have a host that has made way, or was stopped for it, be the primary again; no other is."""
    disarm()
    if made_way_for():
        if POSTMASTER.exists():
            systemctl("stop")
        SIGNAL.unlink()
        sync(DATA)
    end = time.monotonic() + request["patience_s"]
    while True:
        # One that still ends is waited for.
        if not POSTMASTER.exists():
            systemctl("start")
        try:
            if psql("postgres", "SELECT pg_is_in_recovery()", timeout_s=5) == "f":
                return
            problem = "it is a standby"
        except AgentError as error:
            problem = str(error)
        if time.monotonic() > end:
            raise AgentError(problem)
        time.sleep(0.05)


def follow(request):
    """Have a former primary stream from the new one; WAL is kept for nobody on it any more."""
    if not SIGNAL.exists():
        raise AgentError("it is no standby")
    disarm()
    if not POSTMASTER.exists():
        systemctl("start")
    condition = "EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')"
    if not holds(condition, request["patience_s"], request["drop_slots"]):
        raise AgentError("it does not stream; look: journalctl -t postgres -n 20")
    if made_way_for():
        write(SIGNAL, "", 0o600)


def systemctl(verb, *options):
    done = run("systemctl", verb, *options, UNIT)
    if done.returncode != 0:
        raise AgentError(said_by(done))


# Files and processes


def make_directory(path, mode):
    if not path.is_dir():
        path.mkdir()
        shutil.chown(path, "postgres", "postgres")
        path.chmod(mode)


def write(path, text, mode):
    """Write a file of postgres's, atomically."""
    new = path.with_name(path.name + ".new")
    new.touch(0o600)
    with new.open("w") as file:
        file.write(text)
        shutil.chown(new, "postgres", "postgres")
        new.chmod(mode)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def sync(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def as_postgres(program, *arguments):
    done = run(*AS_POSTGRES, BIN / program, *arguments)
    if done.returncode != 0:
        raise AgentError(f"{program} failed: {said_by(done)}")


def said_by(done):
    return done.stderr.strip() or done.stdout.strip()


def run(*command, stdin="", **environment):
    return subprocess.run(
        [str(word) for word in command],
        input=stdin,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        env={**os.environ, "LC_ALL": "C.UTF-8", **environment},
    )


def main(request):
    # A terminal's hang-up or a controller that died must not stop a change half-way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    verbs = {
        "look": look,
        "copy": copy_state,
        "make": make,
        "sql": sql,
        "ask": answer,
        "checkpoint": checkpoint,
        "replayed": replayed,
        "stop": stop,
        "make_way": make_way,
        "made_way": made_way,
        "promote": promote,
        "give_up": give_up,
        "return": come_back,
        "follow": follow,
    }
    try:
        verbs[request["verb"]](request)
    except (AgentError, OSError) as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
