"""Somebody with one of the chapter's arrangements, freshly deployed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.needs import need_root
from tests.operator import ROOT, Operator

#: A lab of its own: that of the stories may still be up.
LAB = {
    "TIERSTACK_LAB_DIR": "/var/lib/tierstack-test-ladder-lab",
    "TIERSTACK_LAB_SUBNET": "10.77.24.0/24",
}


@contextmanager
def deployed(home: Path, arrangement: str) -> Iterator[Operator]:
    """
    Deploy an arrangement to fresh hosts, which are away afterwards.

    Args:
        home: an empty directory, which becomes the operator's.
        arrangement: an inventory of `inventories/ladder`, without `.py`.
    """
    need_root()
    shutil.copytree(ROOT / "inventories" / "ladder", home, dirs_exist_ok=True)
    shutil.copytree(ROOT / "example", home / "example")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        somebody = Operator.at(home / f"{arrangement}.py")
        somebody.edit("../../example", "example", "group_data/all.py")
        with somebody.fresh_hosts():
            somebody.deploy_well()
            yield somebody
