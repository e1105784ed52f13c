"""Who else changes packages on a host is named and waited for."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tierstack.operations import packages_agent

_HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The locks, of which one was never needed."""
    there = tmp_path / "lock-frontend"
    there.touch()
    paths = (str(tmp_path / "never"), str(there))
    monkeypatch.setattr(packages_agent.holder, "__defaults__", (paths,))
    return paths


@pytest.fixture
def other(locks: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the lock, as dpkg takes it, for two seconds."""
    command = [sys.executable, "-c", _HOLD, locks[1], "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_nobody_has_the_lock(locks: tuple[str, ...]) -> None:
    """A lock that is not taken, or not even there, is free."""
    assert packages_agent.holder() == ""


def test_holder_is_named(other: subprocess.Popen[str]) -> None:
    """By its program and its process."""
    assert f", process {other.pid}" in packages_agent.holder()
    assert packages_agent.holder().startswith("python")


def test_holder_is_waited_for(
    other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Then the command is run, once."""
    began = time.monotonic()
    assert packages_agent.run(began + 30, "echo", "installed")
    assert other.wait(5) == 0
    assert time.monotonic() - began >= 1
    assert capsys.readouterr().out == "installed\n"


def test_holder_is_not_waited_for_without_end(
    other: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Past its time the command is run all the same, so that it says in its own words what is wrong."""
    assert not packages_agent.run(0, "sh", "-c", "echo E: Could not get lock; exit 100")
    assert other.poll() is None
    assert capsys.readouterr().err == "E: Could not get lock\n"


def test_earlier_run_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes on without its operator: it takes the policy away that keeps services still."""
    policy, order = tmp_path / "policy-rc.d", list[str]()
    monkeypatch.setattr(packages_agent, "LOCK", str(tmp_path))
    monkeypatch.setattr(packages_agent, "POLICY", policy)
    begun, may_end = threading.Event(), threading.Event()

    def install(packages: list[str], deadline: float) -> int:
        order.append(f"{packages[0]} begins")
        begun.set()
        if packages == ["first"]:
            assert may_end.wait(30)
        assert policy.exists()
        order.append(f"{packages[0]} ends")
        return 0

    monkeypatch.setattr(packages_agent, "install", install)

    def run(name: str) -> None:
        request = {"verb": "install", "packages": [name], "before": "", "patience_s": 60}
        assert packages_agent.main(request) == 0

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(run, "first")
        assert begun.wait(30)
        second = pool.submit(run, "second")
        time.sleep(0.2)
        may_end.set()
        first.result()
        second.result()
    assert order == ["first begins", "first ends", "second begins", "second ends"]
    assert not policy.exists()
