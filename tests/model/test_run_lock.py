"""Who has a host's lock: nobody else may open it, and a run that did not get it does nothing."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import gevent
import pytest
from paramiko import SSHException

from tierstack import run_lock
from tierstack.operations import lock_agent
from tierstack.run_lock import refusal

HOLD = """
import sys
from tierstack.operations import lock_agent
lock_agent.main(*sys.argv[1:])
"""


def hold(me: str, lock: Path) -> subprocess.Popen[str]:
    """Ask for a lock, as a run does on a host."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, me, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ended(holder: subprocess.Popen[str]) -> str:
    """Let a run end, and return what its holder has said."""
    return holder.communicate(timeout=20)[0]


def test_second_run_is_told_who_has_the_lock(tmp_path: Path) -> None:
    """Until the first has ended; nobody but its owner can reach the lock."""
    lock = tmp_path / "locks" / "run"
    first = hold("jane since noon", lock)
    assert first.stdout is not None
    assert first.stdout.readline() == "ours\n"
    assert ended(hold("joe", lock)) == "held jane since noon\n"
    assert ended(first) == ""
    assert ended(hold("joe", lock)) == "ours\n"
    assert stat.S_IMODE(lock.parent.stat().st_mode) == 0o700


def test_lock_that_is_held_in_silence_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A holder that never was a run of ours lets nothing go."""
    lock = tmp_path / "run"
    lock.write_text("jane since noon")
    os.utime(lock, (0, 0))
    monkeypatch.setattr(lock_agent, "SILENT_S", 0.2)
    monkeypatch.setattr(lock_agent, "ENDING_S", 0.2)
    with lock.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        lock_agent.main("joe", str(lock))
    assert capsys.readouterr().out == "held jane since noon\n"


AFTER = (
    ", and without it two runs might meet there; look whether python3 works on it and /run has room,"
    " and try again"
)


@pytest.mark.parametrize(
    ("answer", "said", "refused"),
    [
        ("ours", "", ""),
        (
            "held jane since noon",
            "",
            "another run has it: jane since noon; wait for its end, or end it",
        ),
        (
            "",
            "Traceback\nOSError: [Errno 28] No space left on device: '/run/tierstack/locks'\n",
            "its lock cannot be taken (OSError: [Errno 28] No space left on device:"
            " '/run/tierstack/locks')" + AFTER,
        ),
        ("", "", "its lock cannot be taken (it says nothing)" + AFTER),
    ],
)
def test_run_without_the_lock_is_refused(answer: str, said: str, refused: str) -> None:
    """Whatever the reason: only a host that says so has given its lock."""
    assert refusal(answer, said) == refused


class Line:
    """The input of a lock's holder; counts what it is sent, and fails in its way."""

    def __init__(self, error: Exception | None = None) -> None:
        self.beats = 0
        self._error = error

    def write(self, _: str) -> None:
        """Count, and fail."""
        self.beats += 1
        if self._error:
            raise self._error

    def flush(self) -> None:
        """Do nothing."""


def test_host_that_fails_has_no_other_lose_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not heard for 45 s lets its lock go, and a second run might meet the first there."""
    lines = [Line(SSHException("Key-exchange timed out")), Line(EOFError()), Line()]
    monkeypatch.setattr(run_lock, "_held", [(line, None, None) for line in lines])
    monkeypatch.setattr(run_lock, "_HEARTBEAT_S", 0.01)
    assert run_lock.lock_out_others([]) == {}
    gevent.sleep(0.2)
    assert all(line.beats > 2 for line in lines)


def test_lock_says_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has it stands in an argument on each host, where every account can read it."""
    words = [
        "/usr/bin/pyinfra",
        "--ssh-password",
        "hunter2",
        "--data=key=x",
        "prod.py",
        "deploy.py",
        "-y",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert "(`pyinfra prod.py deploy.py`, process " in run_lock._me()
