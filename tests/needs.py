"""What a test needs of the machine, and what happens where it is missing."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

_MEMORY, _DISK = Path("/dev/shm"), Path("/var/lib")

#: What the hosts of the largest lab may come to, and what this machine needs beside them, in bytes.
_ROOM = 12 * 2**30


def need(missing: str | None) -> None:
    """
    Skip the test if something is missing; in CI, where nothing may be skipped, fail it.

    Args:
        missing: why the test cannot run here; None if it can.
    """
    if missing and os.environ.get("TIERSTACK_TESTS_MUST_RUN"):
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def need_root() -> None:
    """Need root, without whom there are no lab hosts."""
    need(None if os.geteuid() == 0 else "lab hosts need root")


def lab_directory(name: str) -> str:
    """
    Return where the tests keep a lab; in memory if there is room, which takes a tenth off a deploy.

    Args:
        name: the lab's, e.g. "test-lab".
    """
    directory = f"tierstack-{name}"
    try:
        system = os.statvfs(_MEMORY)
        # A world-writable place: what somebody else has put there is not ours.
        ours = not (_MEMORY / directory).exists() or (_MEMORY / directory).stat().st_uid == 0
    except OSError:
        return str(_DISK / directory)
    memory = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
    free = min(system.f_bavail * system.f_frsize, int(memory.group(1)) * 1024 if memory else 0)
    usable = ours and free >= _ROOM and not system.f_flag & os.ST_NOEXEC
    return str((_MEMORY if usable else _DISK) / directory)
