"""What root types into a terminal for a site, and what the site cannot type there."""

from __future__ import annotations

import os
import pty
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tierstack.operations.config import template

#: Types a line into the terminal that it is started from. Source: tty_ioctl(4), TIOCSTI.
_TYPES = """#!/usr/bin/python3
import contextlib, fcntl, sys, termios
with contextlib.suppress(OSError), open("/dev/tty", "w") as terminal:
    for sign in "typed\\n":
        fcntl.ioctl(terminal, termios.TIOCSTI, sign.encode())
print(sys.argv[1:])
sys.exit(3)
"""

_SWITCH = Path("/proc/sys/dev/tty/legacy_tiocsti")
_FORBIDDEN = _SWITCH.exists() and _SWITCH.read_text(encoding="utf-8").strip() == "0"


@pytest.fixture
def program() -> Iterator[Path]:
    """`tierstack-manage` of a host whose site is called as an account that every Debian has."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        home = Path(name)
        home.chmod(0o755)
        manage = home / "daemon" / "current" / "manage"
        manage.parent.mkdir(parents=True)
        manage.write_text(_TYPES, encoding="utf-8")
        manage.chmod(0o750)
        shutil.chown(manage, 0, "daemon")
        text = template("web/usr/local/bin/tierstack-manage.j2", sites=["daemon"]).decode()
        found = home / "tierstack-manage"
        found.write_text(text.replace("/etc/tierstack/sites", name), encoding="utf-8")
        yield found


@pytest.mark.skipif(os.getuid() != 0 or _FORBIDDEN, reason="root alone becomes another account")
@pytest.mark.parametrize("way", ["", " | cat", " <&-"])
def test_site_types_nothing_into_roots_terminal(program: Path, way: str) -> None:
    """Root's shell would carry it out once the command has ended, with root's rights."""
    command = f"{{ sh {program} daemon check --deploy; echo status $?; }}{way}"
    pid, terminal = pty.fork()
    if not pid:
        os.execvp("sh", ["sh", "-c", f"{command}; echo READY; read line; echo root typed $line"])
    said = ""
    with os.fdopen(terminal, "r+b", buffering=0) as lines:
        while "READY" not in said:
            said += lines.read(4096).decode()
        lines.write(b"mine\n")
        while "root typed" not in said:
            said += lines.read(4096).decode()
    os.waitpid(pid, 0)
    assert "['check', '--deploy']" in said, said
    assert "status 3" in said
    assert said.rstrip().endswith("root typed mine")
