"""Runs on a db host, never imported on the controller: sees to it that a former primary takes no writes.

A primary that died is the primary again when it boots, and web hosts that list it first would write to
it, though another has taken over. So it asks the other db hosts before PostgreSQL starts, and becomes a
standby if one of them is on a newer timeline of the same database: somebody was promoted meanwhile.
What it holds stays as it is; the next deploy has it follow, or moves its data aside.

Nor does it take writes where one of them is up and lets it ask no more: a deploy has taken this host
out of the cluster meanwhile.

It starts as the primary where nobody who can be reached says otherwise: a primary must come up without
its standbys. Who was not heard is asked again for some minutes, as both may have booted at once.

Installed, it is the unit's ExecStartPre. Sent over standard input with one request, it asks others:

    {"addresses": ["10.0.0.21"], "port": 5432}

Source: PostgreSQL 15 manual, 27.3 ("Failover"), 55.4 (IDENTIFY_SYSTEM, SHOW).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BIN = Path("/usr/lib/postgresql/15/bin")
DATA = Path("/var/lib/postgresql/15/main")
SIGNAL = DATA / "standby.signal"
OURS = Path("/etc/tierstack/postgresql")
UNIT = "postgresql@15-main.service"
WATCH = "tierstack-db-guard"

#: How long a host may take to accept a connection, and then to say what it is, in seconds.
CONNECT_S, ANSWER_S = 1, 5

#: For how long after its boot a host waits for others that may be booting as well, in seconds, and
#: how old a boot may be for that.
BOOT_WAIT_S, BOOTING_S = 10, 120

#: For how long, and how often, a primary asks those that it has not heard, in seconds.
WATCH_S, AGAIN_S = 600, 5


def main(request: dict[str, Any]) -> None:
    """Print what db hosts are, by address."""
    print(json.dumps(ask_all(request["addresses"], request["port"])))


def guard() -> int:
    """Before PostgreSQL starts: have it be a standby where another is the primary by now."""
    peers, port, ssh_ports = known_peers()
    if not peers or SIGNAL.exists() or not (DATA / "PG_VERSION").exists():
        return 0
    system_id, timeline = control()
    end = time.monotonic() + (BOOT_WAIT_S if booting() else 0)
    while True:
        said = ask_all(peers.values(), port, ssh_ports)
        if heir := newer(system_id, timeline, said):
            step_down(named(peers, heir), timeline, said[heir])
            return 0
        if not unheard(said):
            return 0
        if time.monotonic() > end:
            break
        time.sleep(1)
    if judge := shut_out(said):
        step_down_alone(named(peers, judge), timeline)
        return 0
    # Not waited for: it is done when all have been heard, at the latest after some minutes.
    watch = ["systemd-run", "--quiet", "--collect", f"--unit={WATCH}"]
    subprocess.run(["systemctl", "stop", WATCH], capture_output=True, check=False)
    subprocess.run([*watch, __file__, "watch"], capture_output=True, check=False)
    return 0


def watch() -> int:
    """While PostgreSQL runs as a primary: ask those that were not heard when it started."""
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        time.sleep(AGAIN_S)
        # Who has made way in a switchover is on its way already.
        if SIGNAL.exists():
            return 0
        peers, port, ssh_ports = known_peers()
        system_id, timeline = control()
        said = ask_all(peers.values(), port, ssh_ports)
        heir, judge = newer(system_id, timeline, said), shut_out(said)
        if heir or judge:
            subprocess.run(["systemctl", "stop", UNIT], check=False)
            if heir and not SIGNAL.exists():
                step_down(named(peers, heir), timeline, said[heir])
            elif not SIGNAL.exists():
                step_down_alone(named(peers, judge), timeline)
            return subprocess.run(["systemctl", "start", UNIT], check=False).returncode
        if not unheard(said):
            return 0
    return 0


def newer(system_id: str, timeline: int, said: Mapping[str, Mapping[str, Any]]) -> str:
    """Return who is on a newer timeline of the same database, as primary or following one, or ""."""
    heirs = [
        address
        for address, one in said.items()
        if one["system_id"] == system_id and one["timeline"] > timeline
    ]
    return min(heirs, key=lambda address: said[address]["is"] != "primary", default="")


def shut_out(said: Mapping[str, Mapping[str, Any]]) -> str:
    """
    Return a host that is up and lets this one ask it no more, or "".

    Only a deploy without this host's line shuts it out, and who is left takes the writes by then. Where
    one still answers as before, this host is one of its cluster.
    """
    kinds = {address: one["is"] for address, one in said.items()}
    if set(kinds.values()) & {"primary", "standby"}:
        return ""
    return next((address for address, kind in kinds.items() if kind == "out"), "")


def unheard(said: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return who may be a primary and has not said so yet."""
    waited_for = ("silent", "shut", "unknown", "out")
    return [address for address, one in said.items() if one["is"] in waited_for]


def ask_all(
    addresses: Iterable[str], port: int, ssh_ports: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return what each db host is; all are asked at once."""
    asked, by_ssh = list(addresses), ssh_ports or {}
    with ThreadPoolExecutor(max(1, len(asked))) as pool:
        found = pool.map(lambda address: ask(address, port, by_ssh.get(address)), asked)
        return dict(zip(asked, found, strict=True))


def ask(address: str, port: int, ssh_port: int | None = None) -> dict[str, Any]:
    """
    Return what a db host is, by the account for replication.

    "is": "primary" or "standby", with "system_id" and "timeline"; "silent" without an answer, "shut"
    where PostgreSQL does not run, "out" where the host answers at its SSH port and does not let this
    one to PostgreSQL, "stranger" if it has no certificate of this cluster, else "unknown"; "said" is
    its own words.
    """
    found: dict[str, Any] = {"is": "unknown", "system_id": "", "timeline": 0, "said": ""}
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except ConnectionRefusedError:
        return {**found, "is": "shut"}
    except OSError:
        # A firewall that drops what it does not know, or a host that is not there.
        return {**found, "is": "out" if ssh_port and listens(address, ssh_port) else "silent"}
    where = (
        f"host={address} port={port} user=tierstack_replication replication=true"
        f" application_name=tierstack-db-guard gssencmode=disable connect_timeout={ANSWER_S}"
        f" sslmode=verify-ca sslrootcert={OURS / 'ca.crt'} passfile={OURS / 'replication.pgpass'}"
    )
    psql = [
        str(BIN / "psql"),
        "-XAtwq",
        "-F|",
        "-c",
        "IDENTIFY_SYSTEM",
        "-c",
        "SHOW in_hot_standby",
    ]
    try:
        done = subprocess.run(
            ["runuser", "-u", "postgres", "--", *psql, where],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=2 * ANSWER_S,
            cwd="/",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {**found, "is": "silent"}
    lines = done.stdout.split()
    if done.returncode == 0 and len(lines) == 2:
        system_id, timeline, *_ = lines[0].split("|")
        kind = "standby" if lines[1] == "on" else "primary"
        return {**found, "is": kind, "system_id": system_id, "timeline": int(timeline)}
    said = " ".join(done.stderr.split())
    strange = "certificate verify failed" in said or "does not support SSL" in said
    return {**found, "is": "stranger" if strange else "unknown", "said": said[-300:]}


def listens(address: str, port: int) -> bool:
    """Return whether a host accepts connections at a port."""
    try:
        socket.create_connection((address, port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def known_peers() -> tuple[dict[str, str], int, dict[str, int]]:
    """Return the addresses of the other db hosts, by name, their port, and by address that of SSH."""
    try:
        told = json.loads((OURS / "peers.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, 0, {}
    return told["peers"], told["port"], told.get("ssh_ports", {})


def named(peers: Mapping[str, str], address: str) -> str:
    """Return a peer's name."""
    return next(name for name, at in peers.items() if at == address)


def control() -> tuple[str, int]:
    """Return the system identifier and the timeline of what lies here."""
    said = subprocess.run(
        [BIN / "pg_controldata", "-D", DATA],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        check=False,
    ).stdout
    # A promotion shows in the second at once, in the first after the next checkpoint.
    timelines = re.findall(r"(?:Latest checkpoint's TimeLineID|loc's timeline):\s+(\d+)", said)
    identifier = re.search(r"Database system identifier:\s+(\d+)", said)
    return identifier[1] if identifier else "", max(map(int, timelines), default=0)


def step_down(heir: str, timeline: int, said: Mapping[str, Any]) -> None:
    """Make what lies here a standby; nothing of it is changed or lost."""
    be_standby(
        f"{heir} is {'the primary' if said['is'] == 'primary' else 'a standby'} on timeline"
        f" {said['timeline']}, and this host was the primary on timeline {timeline}: it starts as a"
        f" standby, and takes no writes. Deploy: it follows then, or its data is moved aside. (To"
        f" have it be the primary all the same: stop PostgreSQL on {heir}, remove {SIGNAL}, and"
        " start it here.)"
    )


def step_down_alone(judge: str, timeline: int) -> None:
    """Make what lies here a standby, since a deploy has taken this host out."""
    be_standby(
        f"{judge} is up, and lets this host ask its PostgreSQL no more: a deploy has taken this host,"
        f" the primary on timeline {timeline} before, out of the cluster. It starts as a standby, and"
        " takes no writes. Write its line in db again, and deploy: it follows then, or its data is"
        f" moved aside. (To have it be the primary all the same: take PostgreSQL's other hosts out of"
        f" {OURS}/peers.json, remove {SIGNAL}, and start it here.)"
    )


def be_standby(why: str) -> None:
    """Say why, and have PostgreSQL start as a standby; nothing of the data is changed."""
    print(why, file=sys.stderr, flush=True)
    new = SIGNAL.with_name("standby.signal.new")
    new.touch(0o600)
    shutil.chown(new, "postgres", "postgres")
    new.replace(SIGNAL)
    directory = os.open(DATA, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def booting() -> bool:
    """Return whether this host has just come up; a container's clock begins with its first process."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    now = float(Path("/proc/uptime").read_text().split()[0])
    return now - int(started) / os.sysconf("SC_CLK_TCK") < BOOTING_S
