"""What becomes of files whose unit fails with them, in a directory here."""

from __future__ import annotations

import base64
import getpass
import grp
import importlib
import os
from pathlib import Path
from typing import Any

import pytest

#: A program of a host's, without types.
agent: Any = importlib.import_module("tierstack.operations.agent")


@pytest.mark.parametrize(
    ("keep_new", "content", "state"),
    [
        (False, "old", "the old configuration is back in place, and does not run either"),
        (True, "new", "the new configuration stays in place, and is tried again by itself"),
    ],
)
def test_unit_fails_with_a_new_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    keep_new: bool,
    content: str,
    state: str,
) -> None:
    """The old file comes back, unless what it names is over; the next run acts again in both cases."""
    monkeypatch.setattr(agent, "STAMPS", str(tmp_path))
    monkeypatch.setattr(agent, "write_stamp", lambda name, value: None)
    monkeypatch.setattr(agent, "journal", lambda unit: "")
    path = tmp_path / "server"
    path.write_text("old")
    request = {
        "entries": [
            {
                "kind": "file",
                "path": str(path),
                "mode": "644",
                "owner": getpass.getuser(),
                "group": grp.getgrgid(os.getgid()).gr_name,
                "content": base64.b64encode(b"new").decode(),
            }
        ],
        "stamp": {"name": "share", "was": {}, "during": {}, "want": {}},
        "check": "",
        "check_staged": "",
        "then": "",
        "keep_new": keep_new,
        "actions": [{"unit": "mount.service", "command": "false", "undo": "false"}],
    }
    assert agent.apply(request) == 1
    assert path.read_text() == content
    assert f"tierstack: {state}; look: journalctl -u mount.service" in capsys.readouterr().err
