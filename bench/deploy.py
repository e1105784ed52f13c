"""
Seconds of a deploy, against ansible-core and against bare SSH, for growing numbers of hosts.

    .venv/bin/python -m bench.deploy --help
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from bench import clusters, manifest, playbook, report
from bench.playbook import Run
from bench.report import Row, Timing
from tierstack.inventory import CHECKOUT, load_cluster
from tierstack.lab import Lab
from tierstack.lab.cli import lab_errors
from tierstack.model import Cluster

_DOCUMENT = CHECKOUT / "docs" / "benchmarks.md"
_PLOT = CHECKOUT / "docs" / "benchmarks.svg"

#: The lock of a run is taken by a command of its own, which pyinfra does not tell of.
_LOCKS = 1


def _numbers(context: click.Context, option: click.Parameter, text: str) -> list[int]:
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f'"{text}" is no list of numbers; write e.g. "4,8"') from None
    for number in numbers:
        if not clusters.FEWEST <= number <= clusters.MOST:
            raise click.BadParameter(
                f"{number} hosts are not foreseen; write {clusters.FEWEST} to {clusters.MOST}"
            )
    return numbers


@click.command()
@click.option(
    "--hosts",
    default="4,8,16,32",
    show_default=True,
    callback=_numbers,
    metavar="N,N,…",
    help="How many lab hosts, one cluster after the other.",
)
def main(hosts: list[int]) -> None:
    """
    Deploy clusters of lab hosts by Tierstack and by Ansible, and compare the seconds.

    For each number of hosts: bare SSH, then Tierstack on fresh hosts and again, then Ansible on
    fresh hosts and again. Both must have made the same hosts, and their second runs must change
    nothing; else there is no figure. Writes docs/benchmarks.md and docs/benchmarks.svg.

    Needs root, as the lab does, and some 16 GiB of memory for 32 hosts. 4 hosts take about five
    minutes on two idle processors; 4, 8, 16 and 32 one to two hours.
    """
    os.environ.setdefault("TIERSTACK_LAB_DIR", "/var/lib/tierstack-bench-lab")
    os.environ.setdefault("TIERSTACK_LAB_SUBNET", "10.77.24.0/24")
    # Now, not after an hour: whether the document has a place for the figures.
    report.insert(_DOCUMENT.read_text(encoding="utf-8"), "figures", "")
    rows: list[Row] = []
    with lab_errors():
        lab = Lab()
        playbook.install()
        for number in hosts:
            with tempfile.TemporaryDirectory(prefix="tierstack-bench-") as directory:
                rows.append(_measure(lab, number, Path(directory)))
    text = f"{report.table(rows)}\n{report.summary(rows)}"
    document = _DOCUMENT.read_text(encoding="utf-8")
    _DOCUMENT.write_text(report.insert(document, "figures", text), encoding="utf-8")
    _PLOT.write_text(report.chart(rows), encoding="utf-8")
    click.echo(f"\n{text}")


def _measure(lab: Lab, hosts: int, directory: Path) -> Row:
    """
    Measure both tools on a cluster of so many hosts.

    Raises:
        ClickException: a run failed, a second run changed something, or the hosts differ.
    """
    inventory = clusters.write(directory, hosts)
    cluster = load_cluster(inventory)
    given = directory / "ansible"
    given.mkdir(mode=0o700)

    def deploy() -> Run:
        return _pyinfra(inventory)[0]

    def play() -> Run:
        return playbook.run(given, hosts)

    with _fresh_hosts(lab, cluster) as names:
        ssh_s = min(_bare_ssh(lab, names) for _ in range(3))
        fresh = _timed(f"{hosts} hosts: Tierstack, fresh", deploy, changes=True)
        converged = _timed(f"{hosts} hosts: Tierstack, converged", deploy, changes=False)
        # In a run of its own: to tell of each command takes time itself.
        most = executions(_pyinfra(inventory, "--debug")[1])
        ours = manifest.collect(lab, names)
        playbook.export(cluster, lab, given)

    with _fresh_hosts(lab, cluster) as names:
        ansible_fresh = _timed(f"{hosts} hosts: Ansible, fresh", play, changes=True)
        ansible_converged = _timed(f"{hosts} hosts: Ansible, converged", play, changes=False)
        found = manifest.differences(ours, manifest.collect(lab, names))
    if found:
        raise click.ClickException(
            "no figures, since the two have not made the same hosts:\n  " + "\n  ".join(found)
        )
    return Row(hosts, ssh_s, fresh, converged, most, ansible_fresh, ansible_converged)


@contextmanager
def _fresh_hosts(lab: Lab, cluster: Cluster) -> Iterator[list[str]]:
    """Give the names of a cluster's hosts, which are new and gone afterwards."""
    lab.down()
    try:
        lab.up({host.name: host.address for host in cluster.hosts})
        yield [host.name for host in cluster.hosts]
    finally:
        lab.down()


def _timed(what: str, run: Callable[[], Run], *, changes: bool) -> Timing:
    """
    Time a run; look before it how busy the machine is without it.

    Raises:
        ClickException: it was to change nothing, and did.
    """
    click.echo(f"bench: {what} … ", nl=False)
    begin = _Processors.now()
    time.sleep(3)
    before = _Processors.now()
    done = run()
    after = _Processors.now()
    click.echo(f"{done.seconds:.1f} s")
    if done.changed and not changes:
        told = f"{done.changed}: {', '.join(done.what)}"
        raise click.ClickException(f"{what}: it was to change nothing, and changed {told}")
    return Timing(done.seconds, before.busy_since(begin), after.steal_since(before))


@dataclass(frozen=True)
class _Processors:
    """What the processors have done since the machine started, in ticks. Source: proc(5), stat."""

    total: int
    idle: int
    steal: int

    @classmethod
    def now(cls) -> _Processors:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
        # user nice system idle iowait irq softirq steal; what follows is in these already.
        ticks = [int(number) for number in line.split()[1:9]]
        return cls(sum(ticks), ticks[3] + ticks[4], ticks[7])

    def busy_since(self, before: _Processors) -> float:
        return 1 - (self.idle - before.idle) / max(1, self.total - before.total)

    def steal_since(self, before: _Processors) -> float:
        return (self.steal - before.steal) / max(1, self.total - before.total)


def _pyinfra(inventory: Path, *options: str) -> tuple[Run, str]:
    """Deploy; return how that went and what pyinfra said meanwhile. Raises ClickException."""
    program = Path(sys.executable).with_name("pyinfra")
    command = [str(program), str(inventory), "deploy.py", "-y", "--json"]
    began = time.monotonic()
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, cwd=CHECKOUT
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise click.ClickException(f"the deploy failed:\n{done.stderr[-4000:]}")
    results = json.loads(done.stdout)["results"]
    changed = [each["name"] for each in results["operations"] if each["success"]]
    return Run(seconds, results["totals"]["success"], changed), done.stderr


def executions(said: str) -> int:
    """Return the SSH executions on the host that has the most, from what pyinfra's --debug says."""
    on = Counter(re.findall(r"Running command on (\S+): ", said))
    return max(on.values(), default=0) + _LOCKS


def _bare_ssh(lab: Lab, names: list[str]) -> float:
    """Return the seconds of `ssh HOST true` to all hosts at once."""
    commands = [[*lab.ssh_argv(name), "true"] for name in names]
    began = time.monotonic()
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda command: subprocess.run(command, check=True), commands))
    return time.monotonic() - began


if __name__ == "__main__":
    main()
