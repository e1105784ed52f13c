"""Runs on a db host, never imported on the controller: looks at PostgreSQL, makes a data directory.

It is sent over standard input together with one JSON object, so that no password stands in an
argument list. It needs nothing but Debian's python3 and PostgreSQL's own programs.

    {"verb": "look", "address": "10.0.0.21", "port": 5432, "databases": [...]}
    {"verb": "make", "port": 5432, "source": null or {...}}
    {"verb": "sql",  "statements": [[database, sql], ...]}
"""

import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys

BIN = "/usr/lib/postgresql/15/bin/"
VERSION_DIRECTORY = "/var/lib/postgresql/15"
DATA = VERSION_DIRECTORY + "/main"
STAGE = VERSION_DIRECTORY + "/.tierstack-new"
MARKER = STAGE + "/made-by-tierstack"
CONFIG = "/etc/postgresql/15/main"
POSTMASTER = DATA + "/postmaster.pid"


class Failed(Exception):
    """Told to the user in a sentence."""


# Look

# Every value comes from one snapshot. CASE keeps what a standby cannot answer from being asked.
STATE_SQL = r"""
SELECT json_build_object(
  'version', current_setting('server_version'),
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
        "installed": os.path.exists(BIN + "postgres"),
        "present": has_data(),
        "configured": os.path.exists(CONFIG + "/postgresql.conf"),
        "standby": os.path.exists(DATA + "/standby.signal"),
        "running": False,
        "accepts": False,
        "problem": "",
        **control(DATA),
    }
    if state["present"] and os.path.exists(POSTMASTER):
        try:
            state.update(ask("postgres", STATE_SQL))
            state["running"] = True
        except Failed as problem:
            state["problem"] = str(problem)
    if state["running"]:
        for name in sorted(set(request["databases"]) & set(state["databases"])):
            state["databases"][name].update(ask(name, DATABASE_SQL))
        ready = [BIN + "pg_isready", "-q", "-t", "3", "-h", request["address"], "-p"]
        state["accepts"] = run([*ready, str(request["port"])]).returncode == 0
    print(json.dumps(state))


def has_data():
    try:
        return bool(os.listdir(DATA))
    except (FileNotFoundError, NotADirectoryError):
        return os.path.lexists(DATA) and not os.path.isdir(DATA)


def control(directory):
    """Return what pg_controldata says; it reads a file, so the server may be down."""
    none = {"system_id": "", "timeline": 0, "checksums": False, "limits": {}}
    if not os.path.exists(directory + "/PG_VERSION") or not os.path.exists(BIN + "pg_controldata"):
        return none
    done = run([BIN + "pg_controldata", "-D", directory])
    said = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    if done.returncode != 0 or "Database system identifier" not in said:
        return none
    return {
        "system_id": said["Database system identifier"].strip(),
        "timeline": int(said["Latest checkpoint's TimeLineID"]),
        "checksums": said["Data page checksum version"].strip() != "0",
        "limits": {
            name: int(said[name + " setting"]) for name in ("max_connections", "max_wal_senders")
        },
    }


# SQL


def ask(database, sql):
    return json.loads(psql(database, sql))


def psql(database, sql):
    """Run SQL as postgres over the local socket of the server that runs, whatever its port."""
    try:
        with open(POSTMASTER) as file:
            lines = file.read().splitlines()
        port, socket = lines[3], lines[4]
    except (OSError, IndexError):
        raise Failed("PostgreSQL does not run") from None
    # Terse: an error must not quote the statement, which may hold a password's verifier.
    command = "psql -X -q -A -t -w -v ON_ERROR_STOP=1 -v VERBOSITY=terse".split()
    done = run(
        ["runuser", "-u", "postgres", "--", *command, "-h", socket, "-p", port, "-d", database],
        input=sql,
        env={"PGCONNECT_TIMEOUT": "5", "PGOPTIONS": "-c lock_timeout=20s"},
    )
    if done.returncode != 0:
        raise Failed(done.stderr.strip() or done.stdout.strip())
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
    with open("/run/tierstack-postgresql.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not has_data():
            stage(request["source"])
        if not os.path.exists(CONFIG + "/postgresql.conf"):
            configure(request["port"])


def stage(source):
    if os.path.lexists(STAGE):
        if not os.path.exists(MARKER):
            raise Failed(STAGE + " is not ours; look at it and move it away, then deploy again")
        shutil.rmtree(STAGE)
    make_directory(VERSION_DIRECTORY, 0o755)
    make_directory(STAGE, 0o700)
    try:
        write(MARKER, "", 0o600)
        data = STAGE + "/data"
        if source:
            copy(source, data)
        else:
            as_postgres(
                BIN + "initdb",
                "-D",
                data,
                "--data-checksums",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--auth-local=peer",
                "--auth-host=scram-sha-256",
            )
        # Debian keeps these under /etc; what is in force must not be looked for here.
        for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
            if os.path.exists(data + "/" + name):
                os.unlink(data + "/" + name)
        if os.path.isdir(DATA):
            os.rmdir(DATA)
        os.rename(data, DATA)
        sync(VERSION_DIRECTORY)
    finally:
        shutil.rmtree(STAGE, ignore_errors=True)


def copy(source, data):
    """Copy a primary, verify the copy and make it a standby."""
    write(STAGE + "/ca.crt", source["ca_certificate"], 0o600)
    write(STAGE + "/pgpass", source["pgpass"], 0o600)
    conninfo = "%s sslrootcert=%s/ca.crt passfile=%s/pgpass" % (source["conninfo"], STAGE, STAGE)
    as_postgres(
        BIN + "pg_basebackup",
        "-D",
        data,
        "-d",
        conninfo,
        "-w",
        "-X",
        "stream",
        "-S",
        source["slot"],
        "-c",
        "fast",
    )
    as_postgres(BIN + "pg_verifybackup", "-q", data)
    system_id = control(data)["system_id"]
    if source["system_id"] not in ("", system_id):
        raise Failed(
            "the copy has the system identifier %s, and the primary %s: another server answers"
            " at the primary's address" % (system_id, source["system_id"])
        )
    write(data + "/standby.signal", "", 0o600)


CONFIG_TEXT = """\
# Written by Tierstack once, when it made this database; yours from then on.
# What Tierstack sets stands in conf.d/, and wins.
data_directory = '%s'
external_pid_file = '/run/postgresql/15-main.pid'
unix_socket_directories = '/var/run/postgresql'
cluster_name = '15/main'
port = %d
include_dir = 'conf.d'
"""


def configure(port):
    """
    Write the files that make a data directory Debian's cluster 15/main; postgresql.conf last.

    pg_createcluster does it only for a directory with initdb's own configuration in it, and one
    that was cut off half-way refuses to run again.
    """
    make_directory("/etc/postgresql", 0o755)
    make_directory("/etc/postgresql/15", 0o755)
    make_directory(CONFIG, 0o755)
    make_directory(CONFIG + "/conf.d", 0o755)
    write(CONFIG + "/start.conf", "auto\n", 0o644)
    write(CONFIG + "/pg_ctl.conf", "pg_ctl_options = ''\n", 0o644)
    write(CONFIG + "/environment", "", 0o644)
    write(CONFIG + "/pg_ident.conf", "", 0o640)
    write(CONFIG + "/pg_hba.conf", "local all postgres peer\n", 0o640)
    write(CONFIG + "/postgresql.conf", CONFIG_TEXT % (DATA, port), 0o644)
    # As pg_createcluster does: systemd's generator and apt's autoremove learn of the cluster.
    run(["systemctl", "daemon-reload"])
    run(["/usr/share/postgresql-common/pg_updateaptconfig"])


# Files and processes


def make_directory(path, mode):
    if not os.path.isdir(path):
        os.mkdir(path)
        own(path)
        os.chmod(path, mode)


def write(path, text, mode):
    temporary = path + ".new"
    with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        own(temporary)
        os.chmod(temporary, mode)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def own(path):
    account = pwd.getpwnam("postgres")
    os.chown(path, account.pw_uid, account.pw_gid)


def sync(directory):
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def as_postgres(*command):
    done = run(["runuser", "-u", "postgres", "--", *command])
    if done.returncode != 0:
        said = re.sub(r"^pg_basebackup: ", "", done.stderr.strip() or done.stdout.strip())
        raise Failed("%s failed: %s" % (os.path.basename(command[0]), said))


def run(command, input="", env=None):
    return subprocess.run(
        command,
        input=input,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd="/",
        env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
    )


def main(request):
    # A terminal's hang-up or a controller that died must not stop a change half-way.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        {"look": look, "make": make, "sql": sql}[request["verb"]](request)
    except (Failed, OSError) as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
