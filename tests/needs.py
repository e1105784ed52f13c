"""What a test needs of the machine, and what happens where it is missing."""

from __future__ import annotations

import os

import pytest


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
