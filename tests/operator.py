"""An operator's hands: the commands that the documents tell, run on the lab's hosts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.visitor import Door
from tierstack.inventory import load_cluster
from tierstack.lab import lab_host
from tierstack.model import Cluster, Host

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@dataclass
class Run:
    """A command that has ended."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Deploy(Run):
    """A deploy that has ended, with pyinfra's own count of what it changed."""

    @property
    def results(self) -> dict[str, Any]:
        """Return pyinfra's results; an empty dict when the run ended before there were any."""
        results: dict[str, Any] = json.loads(self.out)["results"] if self.out.strip() else {}
        return results

    @property
    def changes(self) -> list[str]:
        """Return what changed, as "operation: hosts"."""
        return [
            f"{operation['name']}: {', '.join(operation['success'])}"
            for operation in self.results["operations"]
            if operation["success"]
        ]


class Operator:
    """
    Somebody with a directory of their own: an inventory, group data, a project.

    Args:
        home: the directory, made from `inventories/lab.py` and `example/`.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.inventory = home / "lab.py"
        shutil.copytree(ROOT / "example", home / "example")
        (home / "group_data").mkdir()
        shutil.copy(ROOT / "group_data" / "all.py", home / "group_data")
        shutil.copy(ROOT / "group_data" / "lab.py", home / "group_data")
        shutil.copy(ROOT / "inventories" / "lab.py", self.inventory)

    @classmethod
    def at(cls, inventory: Path) -> Self:
        """Return somebody whose directory is there already."""
        somebody = cls.__new__(cls)
        somebody.home, somebody.inventory = inventory.parent, inventory
        return somebody

    # The inventory

    def cluster(self) -> Cluster:
        """Return the cluster that the inventory describes now."""
        return load_cluster(self.inventory)

    def edit(self, before: str, after: str, file: str = "lab.py") -> None:
        """Replace a piece of a file, as in an editor; the piece must be there."""
        path = self.home / file
        text = path.read_text(encoding="utf-8")
        assert before in text, f"{before!r} is not in {file}"
        path.write_text(text.replace(before, after, 1), encoding="utf-8")

    @property
    def door(self) -> Door:
        """The site's front door."""
        return self.door_of(self.cluster().tier("balancer")[0])

    def door_of(self, balancer: Host) -> Door:
        """Return the way in that one of the balancers is."""
        return Door(balancer.address, self.cluster().sites[0].settings.domains[0])

    # Commands

    def tierstack(self, *arguments: str, timeout_s: int = 300, given: str = "") -> Run:
        """Run the command `tierstack`, with this standard input."""
        return _run([str(BIN / "tierstack"), *arguments], timeout_s, given)

    def lab(self, *arguments: str) -> Run:
        """Run `tierstack lab …`; it must succeed."""
        done = self.tierstack("lab", *arguments)
        assert done.status == 0, done.said
        return done

    @contextmanager
    def fresh_hosts(self, *arguments: str) -> Iterator[None]:
        """Make the inventory's hosts anew, as `lab up` does with these arguments; away afterwards."""
        self.tierstack("lab", "down")
        try:
            self.lab("up", str(self.inventory), *arguments)
            yield
        finally:
            self.tierstack("lab", "down")

    def deploy(self, *arguments: str, timeout_s: int = 900) -> Deploy:
        """Run `pyinfra INVENTORY deploy.py -y`."""
        return self.run_file("deploy.py", *arguments, timeout_s=timeout_s)

    def deploy_meeting(
        self, line: str, event: Callable[[subprocess.Popen[str]], object], timeout_s: int = 300
    ) -> Deploy:
        """Deploy; once pyinfra says a line with this in it, the event happens to its process."""
        command = [str(BIN / "pyinfra"), str(self.inventory), "deploy.py", "-y", "--json"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        said = ""
        with subprocess.Popen(command, cwd=ROOT, **pipes) as run:  # type: ignore[call-overload]
            patience = threading.Timer(timeout_s, run.kill)
            patience.start()
            for text in run.stderr:
                if line in text and line not in said:
                    event(run)
                said += text
            out = run.stdout.read()
            patience.cancel()
        assert line in said, said[-4000:]
        return Deploy(run.returncode, out, said)

    def run_file(self, file: str | Path, *arguments: str, timeout_s: int = 900) -> Deploy:
        """Run pyinfra with any deploy file."""
        command = [str(BIN / "pyinfra"), str(self.inventory), str(file), "-y", "--json"]
        done = _run([*command, *arguments], timeout_s)
        return Deploy(done.status, done.out, done.err)

    def deploy_well(self, *arguments: str) -> Deploy:
        """Deploy; it must succeed."""
        done = self.deploy(*arguments)
        assert done.status == 0, done.said[-6000:]
        return done

    def pyinfra(self, *arguments: str, timeout_s: int = 300) -> Run:
        """Run `pyinfra INVENTORY …`."""
        return _run([str(BIN / "pyinfra"), str(self.inventory), *arguments], timeout_s)

    def on(self, host: str, command: str, timeout_s: int = 60, given: str = "") -> Run:
        """Run a shell command on a host, as root, with this standard input."""
        return self.on_address(self.cluster().host(host).address, command, timeout_s, given)

    def on_address(self, address: str, command: str, timeout_s: int = 60, given: str = "") -> Run:
        """Run a shell command on a lab host, even one that has left the inventory."""
        data = lab_host("host", int(address.rpartition(".")[2]))[1]
        known = data["ssh_known_hosts_file"]
        ssh = [
            "ssh", "-i", data["ssh_key"], "-o", f"UserKnownHostsFile={known}",
            "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR",
            f"root@{address}", command,
        ]  # fmt: skip
        return _run(ssh, timeout_s, given)

    def ask(self, host: str, command: str, given: str = "") -> str:
        """Return what a shell command prints on a host; it must succeed."""
        done = self.on(host, command, given=given)
        assert done.status == 0, f"{host}: {command}\n{done.said}"
        return done.out.strip()


def _run(command: list[str], timeout_s: int, given: str = "") -> Run:
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        check=False,
        cwd=ROOT,
    )
    return Run(done.returncode, done.stdout, done.stderr)


def wait_until(
    what: str, true: Callable[[], object], deadline_s: float = 60, pause_s: float = 0.3
) -> None:
    """Wait for a condition; fail with its name when it does not come true."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, f"not within {deadline_s} s: {what}"
        time.sleep(pause_s)


def assert_nothing_changed(deploy: Deploy) -> None:
    """The run was good and changed nothing on any host."""
    assert deploy.status == 0, deploy.said[-6000:]
    assert deploy.changes == [], deploy.changes
    assert deploy.results["totals"]["success"] == 0
    assert deploy.results["totals"]["no_change"] > 0
