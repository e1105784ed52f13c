"""Runs on a db host, never imported on the controller: looks at PostgreSQL, makes a data directory.

It is sent over standard input together with one JSON object, so that no password stands in an
argument list. It needs nothing but Debian's python3 and PostgreSQL's own programs.

    {"verb": "look", "address": "10.0.0.21", "port": 5432, "databases": [...],
     "passwords": false}
    {"verb": "make", "port": 5432, "source": null or {...}}
    {"verb": "sql",  "statements": [[database, sql], ...]}
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")
DATA = Path("/var/lib/postgresql/15/main")
STAGE = DATA.parent / ".tierstack-new"
MARKER = STAGE / "made-by-tierstack"
CONFIG = Path("/etc/postgresql/15/main")
ACCESS = CONFIG / "pg_hba.tierstack.conf"
POSTMASTER = DATA / "postmaster.pid"
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
        "standby": (DATA / "standby.signal").exists(),
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
    """Return what pg_controldata says; it reads a file, so the server may be down."""
    none = {"system_id": "", "timeline": 0, "checksums": False, "limits": {}}
    if not (directory / "PG_VERSION").exists() or not (BIN / "pg_controldata").exists():
        return none
    done = run(BIN / "pg_controldata", "-D", directory)
    said = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    if done.returncode != 0 or "Database system identifier" not in said:
        return none
    return {
        "system_id": said["Database system identifier"].strip(),
        # A promotion shows in the second at once, in the first after the next checkpoint.
        "timeline": max(
            int(said["Latest checkpoint's TimeLineID"]),
            int(said["Min recovery ending loc's timeline"]),
        ),
        "checksums": said["Data page checksum version"].strip() != "0",
        "limits": {
            name: int(said[name + " setting"]) for name in ("max_connections", "max_wal_senders")
        },
    }


def listens(address, port):
    """Return whether a port is open. pg_isready would leave a refused login in the log each time."""
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


# SQL


def ask(database, sql):
    return json.loads(psql(database, sql, timeout_s=30))


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
    leaves either nothing or everything. What lies in place already is never overwritten.
    """
    # A first run whose controller has died may still be at it: wait for it, then look again.
    with Path("/run/tierstack-postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_data():
            stage(request["source"])
        if not (CONFIG / "postgresql.conf").exists():
            configure(request["port"])


def stage(source):
    if STAGE.exists():
        if any(STAGE.iterdir()) and not MARKER.exists():
            raise AgentError(f"{STAGE} is not ours; move it away, then deploy again")
        shutil.rmtree(STAGE)
    make_directory(DATA.parent, 0o755)
    make_directory(STAGE, 0o700)
    try:
        MARKER.touch()
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
        if DATA.is_dir():
            DATA.rmdir()
        data.rename(DATA)
        sync(DATA.parent)
    finally:
        shutil.rmtree(STAGE, ignore_errors=True)


def copy(source, data):
    """Copy a primary, verify the copy and make it a standby."""
    authority, passwords = STAGE / "ca.crt", STAGE / "pgpass"
    write(authority, source["ca_certificate"], 0o600)
    write(passwords, source["pgpass"], 0o600)
    conninfo = f"{source['conninfo']} sslrootcert={authority} passfile={passwords}"
    as_postgres(
        "pg_basebackup",
        f"--pgdata={data}",
        f"--dbname={conninfo}",
        f"--slot={source['slot']}",
        "--wal-method=stream",
        "--checkpoint=fast",
        "--no-password",
    )
    as_postgres("pg_verifybackup", "-q", data)
    system_id = control(data)["system_id"]
    if source["system_id"] not in ("", system_id):
        raise AgentError(
            f"the copy has the system identifier {system_id}, and the primary"
            f" {source['system_id']}: another server answers at the primary's address"
        )
    write(data / "standby.signal", "", 0o600)


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
    try:
        {"look": look, "make": make, "sql": sql}[request["verb"]](request)
    except (AgentError, OSError) as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
