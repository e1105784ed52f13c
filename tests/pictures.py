"""The pictures of clusters in docs/, drawn from their inventories; `make pictures` draws them anew."""

from __future__ import annotations

import os
from pathlib import Path
from unittest import mock

from tests.operator import ROOT
from tierstack.inventory import load_cluster
from tierstack.model.graph import svg

LADDER = ROOT / "inventories" / "ladder"

#: Inventories by picture, relative to `docs`.
PICTURES = {
    "cluster.svg": ROOT / "inventories" / "lab.py",
    **{f"ladder/{path.stem}.svg": path for path in sorted(LADDER.glob("*.py"))},
}


def draw(inventory: Path) -> str:
    """
    Return the picture of an inventory, whatever this machine and its lab are like.

    MEDIA_ROOT is shared as on most machines: over sshfs between containers, over NFS elsewhere.
    """
    nfs = inventory.parent == LADDER
    usual = {name: value for name, value in os.environ.items() if "TIERSTACK_LAB" not in name}
    with (
        mock.patch.dict(os.environ, usual, clear=True),
        mock.patch("tierstack.lab.kernel_has_nfs", return_value=nfs),
    ):
        return svg(load_cluster(inventory))


if __name__ == "__main__":
    for name, path in PICTURES.items():
        (ROOT / "docs" / name).write_text(draw(path), encoding="utf-8")
