"""A directory that `tierstack new` has made, edited as its README says, is all that a deploy needs."""

from __future__ import annotations

import re
import runpy
import shutil

from tests.operator import Operator, assert_nothing_changed
from tierstack.model.settings import TIER_SETTINGS


def test_new_directory_takes_over_the_cluster(operator: Operator) -> None:
    """With the same hosts, site and secrets in a new directory, a deploy finds nothing to change."""
    ops = operator.home / "ops"
    made = operator.tierstack("new", str(ops), "--source", str(operator.home / "example"))
    assert made.status == 0, made.said
    try:
        mine = Operator.at(ops / "prod.py")
        _name_the_hosts(operator, mine)
        mine.edit("domains=[]", 'domains=["example.test", "www.example.test"]', "group_data/all.py")
        _choose_the_same(operator, mine)
        shutil.copy(
            operator.inventory.with_suffix(".secrets.toml"),
            mine.inventory.with_suffix(".secrets.toml"),
        )
        checked = mine.tierstack("check", str(mine.inventory))
        assert checked.status == 0, checked.said
        assert_nothing_changed(mine.deploy())
        assert mine.door.ask("/").status == 200
    finally:
        shutil.rmtree(ops)


def _choose_the_same(operator: Operator, mine: Operator) -> None:
    """Set what the cluster has been told so far, but its sites."""
    theirs = operator.home / "group_data"
    told = runpy.run_path(str(theirs / "all.py")) | runpy.run_path(str(theirs / "lab.py"))
    lines = [f"{tier} = {told[tier]!r}\n" for tier in TIER_SETTINGS if tier in told]
    (mine.home / "group_data" / "prod.py").write_text("".join(lines), encoding="utf-8")


def _name_the_hosts(operator: Operator, mine: Operator) -> None:
    """Write the lab's hosts in place of the example's, tier by tier."""
    text = mine.inventory.read_text(encoding="utf-8")
    lab = operator.inventory.read_text(encoding="utf-8")
    for tier in ("balancer", "web", "db", "cache", "media"):
        group = re.compile(rf"^{tier} = \[\n.*?^\]\n", re.DOTALL | re.MULTILINE)
        (lines,) = group.findall(lab)
        assert group.search(text), tier
        text = group.sub(lines, text)
    text = text.replace("import cluster\n", "import cluster\nfrom tierstack.lab import lab_host\n")
    mine.inventory.write_text(text, encoding="utf-8")
