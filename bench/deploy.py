"""Seconds and SSH executions of a deploy, against a bare `ssh HOST true` to the same hosts.

    .venv/bin/python bench/deploy.py inventories/lab.py

The hosts must be fresh (`tierstack lab down`, then `up`) for the first figure to mean anything.
All figures are of one run on one machine: compare them with each other, not with another day's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tierstack.inventory import load_cluster
from tierstack.lab import lab_host

_PYINFRA = Path(sys.executable).with_name("pyinfra")


@dataclass
class Measured:
    """One deploy: seconds, SSH executions a host, and how many operations changed something."""

    seconds: float
    executions: float
    changed: int


def deploy(inventory: Path, hosts: int) -> Measured:
    """Deploy once and count; raises CalledProcessError when the deploy fails."""
    began = time.monotonic()
    done = subprocess.run(
        [_PYINFRA, inventory, "deploy.py", "-y", "--json", "--debug"],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.monotonic() - began
    executions = len(re.findall(r"Running command on ", done.stderr))
    return Measured(
        seconds, executions / hosts, json.loads(done.stdout)["results"]["totals"]["success"]
    )


def bare_ssh(addresses: list[str]) -> float:
    """Return the seconds of `ssh HOST true` to all hosts at once."""
    data = lab_host("any", 2)[1]
    known = data["ssh_known_hosts_file"]

    def one(address: str) -> None:
        subprocess.run(
            ["ssh", "-i", data["ssh_key"], "-o", f"UserKnownHostsFile={known}",
             "-o", "BatchMode=yes", f"root@{address}", "true"],
            check=True,
        )  # fmt: skip

    began = time.monotonic()
    with ThreadPoolExecutor(len(addresses)) as pool:
        list(pool.map(one, addresses))
    return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    inventory = Path(sys.argv[1] if len(sys.argv) > 1 else "inventories/lab.py")
    cluster = load_cluster(inventory)
    addresses = [host.address for host in cluster.hosts]
    floor = min(bare_ssh(addresses) for _ in range(3))
    fresh = deploy(inventory, len(addresses))
    converged = deploy(inventory, len(addresses))
    print(
        f"{len(addresses)} hosts            seconds   times the floor   SSH executions a host   changed"
    )
    print(f"ssh HOST true      {floor:8.1f}   {1:15.0f}   {1:21.0f}")
    for name, run in (("fresh deploy", fresh), ("converged run", converged)):
        print(
            f"{name:18} {run.seconds:8.1f}   {run.seconds / floor:15.1f}"
            f"   {run.executions:21.1f}   {run.changed:7}"
        )


if __name__ == "__main__":
    main()
