"""Runs on a host, never imported on the controller: installs Debian packages, and starts none of them.

Sent over standard input with one request:

    {"verb": "look"}
    {"verb": "install", "packages": ["haproxy"], "before": "shell command, run first",
     "patience_s": 300}

Who else has dpkg's or apt's lock, such as unattended-upgrades, is waited for.
"""

import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Whoever changes packages, or the lists of them, holds one of these. Source: apt, apt-pkg/deb.
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
#: What one run of this program locks, by flock(2): dpkg's own locks are of another kind.
LOCK = "/var/lib/dpkg"
LISTS = Path("/var/lib/apt/lists")
#: Lists that are older are fetched again, in seconds.
OLD_S = 86400
APT = (
    "apt-get", "-y", "-q",
    "-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip

#: dpkg asks it before it starts a service (Debian policy, invoke-rc.d). One that the administrator
#: has put there is left alone, one that a killed run of ours left is not.
POLICY = Path("/usr/sbin/policy-rc.d")
OUR_POLICY = "#!/bin/sh\n# tierstack: while packages are installed\nexit 101\n"


def main(request: dict[str, Any]) -> int:
    """Install what is asked for; 1 and a sentence where that cannot be done."""
    if request["verb"] == "look":
        print(json.dumps({"holder": holder()}))
        return 0
    if request["before"]:
        subprocess.run(["sh", "-ec", request["before"]], check=True)
    deadline = time.monotonic() + request["patience_s"]
    with alone(deadline):
        ours = not POLICY.exists() or "tierstack" in POLICY.read_text(errors="replace")
        if ours:
            POLICY.write_text(OUR_POLICY)
            POLICY.chmod(0o755)
        try:
            return install(request["packages"], deadline)
        finally:
            if ours:
                POLICY.unlink()


@contextmanager
def alone(deadline: float) -> Iterator[None]:
    """
    Wait for an earlier run of this program, which goes on here when its operator has gone.

    Else the first to end would take the policy away under the other, whose services would start.
    """
    lock = os.open(LOCK, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    sys.exit(
                        "tierstack: an earlier run installs packages there and did not end in time;"
                        " wait for its end, and deploy again; nothing that serves was changed."
                    )
            time.sleep(0.5)
        yield
    finally:
        os.close(lock)


def install(packages: list[str], deadline: float) -> int:
    """Bring what dpkg was at to an end, then install; with new lists if they are old or lead nowhere."""
    wanted = (*APT, "--no-install-recommends", "install", *packages)
    good = run(deadline, "dpkg", "--configure", "-a")
    fresh = any(time.time() - file.stat().st_mtime < OLD_S for file in LISTS.glob("*Packages*"))
    if good and not fresh:
        good = run(deadline, *APT, "update")
    if good and (
        run(deadline, *wanted) or (run(deadline, *APT, "update") and run(deadline, *wanted))
    ):
        return 0
    names = ", ".join(packages)
    if who := holder():
        why = (
            f"since another program changes packages there ({who}), and did not end in time; wait for"
            " its end, or end it"
        )
    else:
        why = (
            "as apt says above; look whether this host reaches its package sources (apt-get update)"
        )
    print(
        f"tierstack: {names} cannot be installed, {why}, and deploy again; nothing that serves was"
        " changed.",
        file=sys.stderr,
    )
    return 1


def run(deadline: float, *command: str) -> bool:
    """Run a command to its end, anew for as long as somebody else has a lock; whether it went well."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    while True:
        while holder() and time.monotonic() < deadline:
            time.sleep(1)
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, text=True, errors="replace", check=False,
        )  # fmt: skip
        # Somebody may have been faster.
        if done.returncode and holder() and time.monotonic() < deadline:
            continue
        print(done.stdout, end="", file=sys.stderr if done.returncode else sys.stdout, flush=True)
        return done.returncode == 0


def holder(locks: tuple[str, ...] = LOCKS) -> str:
    """Return which process has one of the locks, with its systemd unit, or "". Source: fcntl(2)."""
    for path in locks:
        try:
            with Path(path).open("rb+") as file:
                asked = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                found = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))
        except OSError:
            continue  # Nobody has needed it yet.
        if found[0] != fcntl.F_UNLCK:
            return process(found[4])
    return ""


def process(pid: int) -> str:
    """Return what a process is called, its number and its unit."""
    name = read(f"/proc/{pid}/comm").strip() or "a program"
    unit = re.search(r"/([^/\n]+\.(?:service|scope))$", read(f"/proc/{pid}/cgroup"), re.M)
    return f"{name}, process {pid}" + (f", {unit.group(1)}" if unit else "")


def read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
