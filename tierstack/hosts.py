"""What a deploy reads from its hosts before it changes the first."""

from __future__ import annotations

import json
from typing import Any

import gevent
from gevent.lock import RLock
from pyinfra import inventory, state
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.context import ctx_host

from tierstack.inventory import checked_cluster
from tierstack.model import Cluster, InventoryError, Mistake
from tierstack.model.sizing import check_capacity
from tierstack.run_lock import lock_out_others

_SCRIPT = r"""
import json, os, subprocess
release = {}
for line in open("/etc/os-release"):
    key, _, value = line.strip().partition("=")
    release[key] = value.strip('"')
memory = next(int(line.split()[1]) // 1024 for line in open("/proc/meminfo") if line.startswith("MemTotal"))
virt = subprocess.run(["systemd-detect-virt", "--container"], stdout=subprocess.PIPE, text=True).stdout.strip()
ports = set()
sshd = subprocess.run(["/usr/sbin/sshd", "-T"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
for line in sshd.splitlines():
    if line.startswith("port "):
        ports.add(int(line.split()[1]))
if os.environ.get("SSH_CONNECTION"):
    ports.add(int(os.environ["SSH_CONNECTION"].split()[3]))
try:
    firewall = open("/etc/tierstack/nftables.conf").read().splitlines()
except OSError:
    firewall = []
print(json.dumps({
    "firewall": [line.strip() for line in firewall if " dport " in line and " sport " not in line],
    "ssh_ports": sorted(ports),
    "system": release.get("PRETTY_NAME", "unknown"),
    "codename": release.get("VERSION_CODENAME", ""),
    "memory_mb": memory,
    "container": virt not in ("none", ""),
    "systemd": os.path.isdir("/run/systemd/system"),
    "root": os.geteuid() == 0,
}))
"""


class HostFacts(FactBase[dict[str, Any]]):
    """System, memory in MiB, whether it is a container, systemd, root, SSH ports, firewall: one execution."""

    def command(self) -> str:
        return "command -v python3 >/dev/null && exec python3 - || echo '{}'"

    def process(self, output: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(output[-1])
        return found


_facts: dict[str, dict[str, Any]] = {}
_cluster: Cluster | None = None
_lock = RLock()


def facts(name: str) -> dict[str, Any]:
    """Return what `HostFacts` said of a host, by name."""
    return _facts[name]


def ask_all(hosts: list[Host], fact: type[FactBase[Any]], **arguments: Any) -> dict[str, Any]:
    """
    Ask several hosts for a fact at once.

    Args:
        hosts: hosts of this run.
        fact: the fact.
        arguments: its arguments, and pyinfra's own such as `_stdin`.

    Returns:
        The fact by host name.
    """

    def ask(host: Host) -> Any:
        with ctx_host.use(host):
            return host.get_fact(fact, **arguments)

    # Not in pyinfra's pool: this runs inside it, and would wait for itself.
    asked = {host.name: gevent.spawn(ask, host) for host in hosts}
    return {name: greenlet.get() for name, greenlet in asked.items()}


def surveyed_cluster() -> Cluster:
    """
    Return the cluster with what its hosts said of themselves; ask them once a run.

    Raises:
        PyinfraError: every finding in one message; no host was changed.
    """
    global _cluster
    with _lock:
        if _cluster is None:
            _cluster = _survey(checked_cluster())
        return _cluster


def _survey(declared: Cluster) -> Cluster:
    answers = ask_all(inventory.get_active_hosts(), HostFacts, _stdin=_SCRIPT)
    locked = lock_out_others(inventory.get_active_hosts())
    _facts.update({name: found or {} for name, found in answers.items()})
    mistakes = [m for name in sorted(_facts) for m in _unsupported(name, _facts[name])]
    for name, who in locked.items():
        mistakes.append(Mistake(name, f"another run has it: {who}; wait for its end, or end it"))
    surveyed = declared.with_memory(
        {name: found["memory_mb"] for name, found in _facts.items() if "memory_mb" in found}
    )
    for host in surveyed.hosts:
        # A balancer sends each web node as much as it has memory for.
        needed = "web" in host.tiers and any(b.name in _facts for b in surveyed.tier("balancer"))
        if needed and host.memory_mb is None and host.name not in _facts:
            what = (
                "how much a balancer may send it is not known, as it has no part in this run;"
                " write memory_mb in its line, or deploy without --limit"
            )
            mistakes.append(Mistake(host.name, what))
    mistakes += check_capacity(surveyed)
    if mistakes:
        shown = InventoryError(declared.inventory.name, mistakes).message()
        raise PyinfraError(shown.replace("no host was touched", "no host was changed"))
    return surveyed


def _unsupported(name: str, found: dict[str, Any]) -> list[Mistake]:
    if not found:
        return [Mistake(name, "has no python3; type on it: apt-get install python3")]
    mistakes = []
    if found["codename"] != "bookworm":
        what = f"runs {found['system']}, which is not supported; install Debian 12 (bookworm) on it"
        mistakes.append(Mistake(name, what))
    if not found["systemd"]:
        mistakes.append(Mistake(name, "does not run systemd; boot it with systemd as its init"))
    if not found["root"]:
        what = 'the SSH user is not root; log in as root, or write "_sudo": True in its line'
        mistakes.append(Mistake(name, what))
    return mistakes


def in_this_run(name: str) -> bool:
    """Return whether a host takes part in this run (`--limit` leaves hosts out)."""
    return any(host.name == name for host in state.activated_hosts)


def whole_run(cluster: Cluster) -> bool:
    """Return whether every host of the inventory takes part: only then may anything be closed."""
    return all(in_this_run(host.name) for host in cluster.hosts)
