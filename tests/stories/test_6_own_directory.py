"""A directory that `tierstack new` has made, edited as its README says, is all that a deploy needs."""

from __future__ import annotations

import json
import re
import runpy
import shutil

from tests.operator import Operator, assert_nothing_changed
from tests.visitor import steady_visitor
from tierstack.model.plan import listed
from tierstack.model.settings import TIER_SETTINGS

#: A lab's host as any other: nobody has written down its key.
_AS_ANY_HOST = """
from tierstack.lab import lab_host as _lab_host


def lab_host(name, number, **more):
    name, data = _lab_host(name, number, **more)
    del data["ssh_known_hosts_file"], data["ssh_strict_host_key_checking"]
    return name, data

"""


def test_new_directory_takes_over_the_cluster(operator: Operator) -> None:
    """With the same hosts, site and secrets in a new directory, a deploy finds nothing to change.

    Nobody knows the hosts' SSH keys there at first: they are refused, shown, and trusted.
    """
    ops = operator.home / "ops"
    made = operator.tierstack("new", str(ops), "--source", str(operator.home / "example"))
    assert made.status == 0, made.said
    try:
        mine = Operator.at(ops / "prod.py")
        _name_the_hosts(operator, mine)
        mine.edit("domains=[]", 'domains=["example.test", "www.example.test"]', "group_data/all.py")
        _choose_the_same(operator, mine)
        checked = mine.tierstack("check", str(mine.inventory))
        assert checked.status == 0, checked.said
        _trust_the_hosts(mine)
        _refuse_without_the_secrets(mine)
        shutil.copy(
            operator.inventory.with_suffix(".secrets.toml"),
            mine.inventory.with_suffix(".secrets.toml"),
        )
        assert_nothing_changed(mine.deploy())
        assert mine.door.ask("/").status == 200
        _refuse_another_key(mine)
    finally:
        shutil.rmtree(ops)


def _trust_the_hosts(mine: Operator) -> None:
    advice = f"its SSH host key is not known; type: tierstack trust {mine.inventory}"
    refused = mine.deploy()
    assert refused.status != 0
    assert f"web1: {advice}" in refused.err
    assert "No hosts remaining" in refused.err
    nodes = json.loads(mine.tierstack("status", str(mine.inventory), "--json").out)
    assert {node["notes"] for node in nodes} == {advice}

    known = mine.home / "known_hosts"
    declined = mine.tierstack("trust", str(mine.inventory), given="n\n")
    assert declined.status == 1, declined.said
    assert not known.exists()
    trusted = mine.tierstack("trust", str(mine.inventory), given="y\n")
    assert trusted.status == 0, trusted.said
    assert len(known.read_text().splitlines()) == len(mine.cluster().hosts)
    # The fingerprint that is shown is the one that the host itself tells.
    key = mine.on_address(
        mine.cluster().host("web1").address, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
    )
    assert key.out.split()[1] in trusted.out
    again = mine.tierstack("trust", str(mine.inventory))
    assert (again.status, len(known.read_text().splitlines())) == (0, len(mine.cluster().hosts))


def _refuse_without_the_secrets(mine: Operator) -> None:
    """On a new laptop the file is missing: plan and deploy make none, and nobody is logged out."""
    names = [host.name for host in mine.cluster().hosts]
    expected = f"prod.secrets.toml: there is no such file, and {listed(names)} were deployed with its secrets;"
    with steady_visitor(mine.door, "/status.json") as seen:
        planned = mine.tierstack("plan", str(mine.inventory))
        refused = mine.deploy()
    assert (planned.status, expected in planned.err) == (1, True), planned.said
    assert (refused.status, expected in refused.err) == (1, True), refused.said
    assert "operations" not in refused.results, refused.changes
    assert not mine.inventory.with_suffix(".secrets.toml").exists()
    assert (seen.failed, seen.requests > 20) == ([], True)


def _refuse_another_key(mine: Operator) -> None:
    """A host that shows another key than the known one is not talked to, and not trusted anew."""
    known = mine.home / "known_hosts"
    right = known.read_text()
    keys = {line.split()[0]: line.split()[2] for line in right.splitlines()}
    web1, web2 = (keys[mine.cluster().host(name).address] for name in ("web1", "web2"))
    known.write_text(right.replace(web2, web1))
    try:
        refused = mine.deploy()
        assert refused.status != 0
        assert (
            "web2: it shows another SSH host key than the one that is known: if it was installed"
            f" anew, delete its line from {known} and type: tierstack trust {mine.inventory};"
        ) in refused.err
        trusted = mine.tierstack("trust", str(mine.inventory), "--yes")
        assert trusted.status == 1
        way_on = f"if it was installed anew, delete its line from {known} and type: tierstack trust"
        assert f"web2 shows another key than {known} has: {way_on}" in trusted.err
        assert known.read_text() == right.replace(web2, web1)
    finally:
        known.write_text(right)


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
    text = text.replace("import cluster\n", f"import cluster\n{_AS_ANY_HOST}")
    mine.inventory.write_text(text, encoding="utf-8")
