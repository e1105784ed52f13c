"""Runs on a host, never imported on the controller: says how the host's tiers are.

Sent over standard input with one request; prints one JSON object. It only reads, and
no question waits longer than a few seconds.
"""

import csv
import http.client
import json
import os
import socket
import subprocess
import sys  # noqa: F401 -- for the line that calls main

TIMEOUT_S = 3


def main(request):
    found = {"units": {unit: active(unit) for unit in request["units"]}}
    found["drain"] = os.path.exists("/run/tierstack/drain")
    found["hold"] = os.path.exists("/etc/tierstack/hold")
    if "web" in request["tiers"]:
        found["web"] = http_status(request["address"], request["web_port"], "/-/health")
        found["releases"] = {site: release(site) for site in request["sites"]}
        found["mounts"] = {site: mounted("/srv/%s/media" % site) for site in request["sites"]}
    if "media" in request["tiers"]:
        found["media"] = http_status(request["address"], request["media_port"], "/-/media-health")
    if "cache" in request["tiers"]:
        found["cache"] = memcached(request["address"], request["cache_port"])
    if "db" in request["tiers"]:
        found["db"] = postgres()
    if "balancer" in request["tiers"]:
        found["balancer"] = haproxy()
    print(json.dumps(found))


def run(*command):
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            cwd="/",  # psql complains of a directory that postgres may not enter
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout.strip()


def active(unit):
    return run("systemctl", "is-active", unit)[1]


def http_status(address, port, path):
    """Return the status of a page, or 0 when nothing answers."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def release(site):
    try:
        return os.path.basename(os.readlink("/srv/%s/current" % site))
    except OSError:
        return ""


def mounted(path):
    """Ask the file system in a process of its own: a dead server must not hang this one."""
    good, said = run("stat", "-f", "-c", "%T", path)
    return good and said in ("fuseblk", "fuse", "nfs", "nfs4")


def memcached(address, port):
    try:
        with socket.create_connection((address, port), TIMEOUT_S) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(99).startswith(b"VERSION")
    except OSError:
        return False


QUERY = """
select json_build_object(
    'in_recovery', pg_is_in_recovery(),
    'receiving', (select status from pg_stat_wal_receiver),
    'lag_s', case when pg_is_in_recovery() then
        case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
        else extract(epoch from now() - pg_last_xact_replay_timestamp()) end end,
    'standbys', (select count(*) from pg_stat_replication where state = 'streaming'),
    'lost_slots', (select coalesce(json_agg(slot_name), '[]') from pg_replication_slots
        where wal_status in ('lost', 'unreserved')))
"""


def postgres():
    good, said = run("runuser", "-u", "postgres", "--", "psql", "-XAtq", "-c", QUERY)
    return json.loads(said) if good else {"error": said}


def haproxy():
    """Return HAProxy's own table: one row a server. Source: HAProxy management guide, 9.1."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.connect("/run/haproxy/admin.sock")
            connection.sendall(b"show stat\n")
            text = b""
            while data := connection.recv(65536):
                text += data
    except OSError as error:
        return {"error": str(error)}
    rows = csv.DictReader(text.decode().lstrip("# ").splitlines())
    return {
        "servers": [
            {"backend": row["pxname"], "server": row["svname"], "status": row["status"]}
            for row in rows
            if row["svname"] not in ("FRONTEND", "BACKEND")
        ]
    }
