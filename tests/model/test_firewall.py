"""The firewall's rules follow from the flows and from `base.outgoing`, in and out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from roles import base
from tests.model.conftest import HOSTS, Home
from tierstack import hosts
from tierstack.cli import main
from tierstack.operations.config import template

DOC = Path(__file__).parents[2] / "docs" / "firewall.md"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What every host says of itself: no rules yet, and SSH on its usual port."""
    facts: dict[str, Any] = {"ssh_ports": [22], "firewall": {"input": [], "output": []}}
    monkeypatch.setattr(hosts, "facts", lambda name: facts)
    return facts


def test_anything_may_go_out_unless_it_is_said(home: Home, found: dict[str, Any]) -> None:
    """Without `base.outgoing` there is one rule for what goes out, and it says so."""
    cluster = home.load()
    for host in cluster.hosts:
        assert base._rules(cluster, host)["output"] == ['accept comment "anything"']


def test_only_flows_and_what_is_listed_go_out(home: Home, found: dict[str, Any]) -> None:
    """With `base.outgoing`: flows to the hosts that they lead to, then the list, in both families."""
    listed = ["udp 53", "tcp 25 to 203.0.113.9", "tcp 443 to 2001:db8::/32", "udp 53"]
    listed.append("tcp 587 to 10.9.0.0/255.255.0.0")
    home.group("base", f"outgoing = {listed!r}")
    cluster = home.load()
    also = [
        'udp dport 53 accept comment "base.outgoing"',
        'ip daddr { 203.0.113.9 } tcp dport 25 accept comment "base.outgoing"',
        'ip6 daddr { 2001:db8::/32 } tcp dport 443 accept comment "base.outgoing"',
        'ip daddr { 10.9.0.0/16 } tcp dport 587 accept comment "base.outgoing"',
    ]
    assert base._rules(cluster, cluster.host("web1"))["output"] == [
        'ip daddr { 10.0.0.21, 10.0.0.22 } tcp dport 5432 accept comment "queries"',
        'ip daddr { 10.0.0.31 } tcp dport 11211 accept comment "cached values"',
        'ip daddr { 10.0.0.41 } tcp dport 2049 accept comment "uploads over nfs"',
        *also,
    ]
    assert base._rules(cluster, cluster.host("db1"))["output"] == [
        'ip daddr { 10.0.0.22 } tcp dport 5432 accept comment "replication"',
        *also,
    ]
    assert base._rules(cluster, cluster.host("cache1"))["output"] == also


def test_what_is_listed_comes_in_besides(home: Home, found: dict[str, Any]) -> None:
    """On every host, from everybody or from whom the entry says, in both families."""
    listed = ["udp 51820", "tcp 9100 from 10.9.0.5", "tcp 9100 from 2001:db8::/32"]
    home.group("base", f"incoming = {listed!r}")
    cluster = home.load()
    for host in cluster.hosts:
        assert base._rules(cluster, host)["input"][-3:] == [
            'udp dport 51820 accept comment "base.incoming"',
            'ip saddr { 10.9.0.5 } tcp dport 9100 accept comment "base.incoming"',
            'ip6 saddr { 2001:db8::/32 } tcp dport 9100 accept comment "base.incoming"',
        ]


def test_media_hosts_go_out_to_the_storage_host(home: Home, found: dict[str, Any]) -> None:
    """Who reads uploads from a storage host is let out to it, as web hosts are."""
    home.inventory(HOSTS, 'storage = [("storage1", {"address": "10.0.0.51"})]')
    home.group("base", "outgoing = []")
    cluster = home.load()
    for name, purpose in (("media1", "uploaded files over nfs"), ("web1", "uploads over nfs")):
        rule = f'ip daddr {{ 10.0.0.51 }} tcp dport 2049 accept comment "{purpose}"'
        assert rule in base._rules(cluster, cluster.host(name))["output"]


def test_every_way_out_is_a_way_in(home: Home, found: dict[str, Any]) -> None:
    """What a host may connect to inside the cluster lets it in, and the other way round."""
    home.group("base", "outgoing = []")
    cluster = home.load()
    out = {
        (host.address, peer, way.protocol, way.port)
        for host in cluster.hosts
        for way in cluster.exits(host) or ()
        for peer in way.peers or ()
    }
    into = {
        (peer, host.address, way.protocol, way.port)
        for host in cluster.hosts
        for way in cluster.openings(host)
        for peer in way.peers or ()
    }
    assert out == into
    assert out


def test_what_is_no_longer_listed_goes_at_the_end(home: Home, found: dict[str, Any]) -> None:
    """Rules that are on a host stay until the run's end, in and out, whatever they let through."""
    home.group("base", "outgoing = ['tcp 443']")
    cluster = home.load()
    host = cluster.host("cache1")
    wanted = base._rules(cluster, host)
    found["firewall"] = {
        "input": [*wanted["input"], 'tcp dport 8000 accept comment "of before"'],
        "output": ['accept comment "anything"'],
    }
    assert base._outdated(cluster, host) == {
        "input": ['tcp dport 8000 accept comment "of before"'],
        "output": ['accept comment "anything"'],
    }
    found["firewall"] = wanted
    assert base._outdated(cluster, host) == {"input": [], "output": []}


def test_host_says_which_rules_it_has(
    home: Home, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the agent reads from the file is what has been written into it."""
    home.group("base", "outgoing = ['udp 53']")
    cluster = home.load()
    rules = base._rules(cluster, cluster.host("web1"))
    text = template("base/etc/tierstack/nftables.conf.j2", rules=rules).decode()
    source = Path(hosts.__file__).parent / "operations" / "preflight_agent.py"
    agent: dict[str, Any] = {}
    exec(compile(source.read_text(encoding="utf-8"), source, "exec"), agent)
    agent["read"] = lambda path: text if path == "/etc/tierstack/nftables.conf" else ""
    assert agent["rules"]() == rules
    # What was kept is what is loaded; the other file may be of a trial that was cut off.
    agent["read"] = lambda path: text if path == "/etc/tierstack/nftables.good" else "junk"
    assert agent["rules"]() == rules
    agent["read"] = lambda path: ""
    assert agent["rules"]() == {"input": [], "output": []}


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("", "anything"),
        ("outgoing = []", "nothing"),
        ("outgoing = ['udp 53', 'tcp 25 to 203.0.113.9']", "udp 53, tcp 25 to 203.0.113.9"),
    ],
)
def test_check_states_what_may_go_out(home: Home, setting: str, said: str) -> None:
    """`tierstack check` says it below the flows."""
    home.group("base", setting)
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert done.exit_code == 0, done.output
    assert f"\nOut of every host may go besides: {said}.\n" in done.output
    assert "\nInto every host may come besides: nothing.\n" in done.output


def test_check_says_what_may_come_in(home: Home) -> None:
    """As it is written."""
    home.group("base", "incoming = ['udp 51820', 'tcp 9100 from 10.9.0.5']")
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert "\nInto every host may come besides: udp 51820, tcp 9100 from 10.9.0.5.\n" in done.output


def test_examples_of_the_page_are_right(home: Home) -> None:
    """The lists that docs/firewall.md recommends are accepted as they stand there."""
    shown = re.search(r"^    (incoming = \[.*?\])$", DOC.read_text(encoding="utf-8"), re.M | re.S)
    assert shown
    home.group("base", shown[1])
    assert len(home.load().settings.base.ways_in) == 3
    found = re.search(r"^    (outgoing = \[.*?\])$", DOC.read_text(encoding="utf-8"), re.M | re.S)
    assert found
    home.group("base", found[1])
    ways = home.load().settings.base.outgoing
    assert {"udp 53", "udp 123", "tcp 80", "tcp 443"} <= set(ways or ())
