"""The demo's last line, on a machine that has no browser."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import screenshot


def test_nothing_is_said_without_a_browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the inventory read."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert screenshot.main(tmp_path / "lab.py", tmp_path / "site.png") == ""
