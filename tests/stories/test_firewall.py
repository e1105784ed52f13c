"""Who gets in and out of every host: what the flows name, and nobody else; other programs' rules stay."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.look import static_file
from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.reach import FREE, Field, Place, Way, field_of, tunnel_to
from tests.uploads import log_in, upload

SITES = "sites = ["

#: What Docker leaves on a host that runs one container, and publishes its port 80 as 8088.
_DOCKER = """
table ip nat {
  chain DOCKER { iifname != "docker0" tcp dport 8088 dnat to 172.17.0.2:80; }
  chain PREROUTING { type nat hook prerouting priority dstnat; fib daddr type local jump DOCKER; }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat;
    ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
  }
}
table ip filter {
  chain DOCKER {
    ip daddr 172.17.0.2 iifname != "docker0" oifname "docker0" tcp dport 80 accept
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    oifname "docker0" ct state related,established accept
    oifname "docker0" jump DOCKER
    iifname "docker0" oifname != "docker0" accept
  }
}
"""
_CONTAINER = """
ip netns add container
ip link add docker0 type veth peer name eth0 netns container
ip address add 172.17.0.1/16 dev docker0
ip link set docker0 up
ip -n container address add 172.17.0.2/16 dev eth0
ip -n container link set eth0 up
ip -n container route add default via 172.17.0.1
sysctl -q -w net.ipv4.ip_forward=1
systemd-run -q --collect --unit=test-container ip netns exec container python3 -m http.server 80
until ip netns exec container ss -Hltn sport = 80 | grep -q .; do sleep 0.1; done
"""
_NO_CONTAINER = """
systemctl stop test-container
ip netns delete container
sysctl -q -w net.ipv4.ip_forward=0
for table in 'ip nat' 'ip filter' 'inet f2b-table'; do nft delete table $table; done
"""

#: What fail2ban leaves on a host where it has banned one address from SSH.
_FAIL2BAN = """
table inet f2b-table {
  set addr6-set-sshd { type ipv6_addr; elements = { %s } }
  chain f2b-chain {
    type filter hook input priority filter - 1; policy accept;
    tcp dport { 22 } ip6 saddr @addr6-set-sshd reject with icmpv6 type port-unreachable
  }
}
"""


_ACCEPTED = "grep -o 'tcp dport.*accept'"
_OPENED = "nft list chain inet tierstack input | grep -c 'tcp dport.*accept'"


@pytest.fixture(scope="module")
def field(operator: Operator) -> Iterator[Field]:
    """All hosts and the outside, with both kinds of addresses, and listeners on free ports."""
    with field_of(operator) as field:
        yield field


class Others:
    """Docker with a container, and fail2ban that has banned the outside's IPv6 address, on cache2."""

    def __init__(self, field: Field) -> None:
        self.field = field
        self.host = field.place("cache2")
        self.banned = Way("tcp", self.host.address6, 22)

    def load_rules(self) -> None:
        """Add their rules, as they do when they start."""
        rules = _DOCKER + _FAIL2BAN % self.field.outside.address6
        self.field.operator.ask(self.host.name, "nft -f -", given=rules)

    def assert_at_work(self) -> None:
        """Who is banned is out, others are in, and the container is reached and reaches out."""
        outside, ask = self.field.outside, self.field.operator.ask
        ssh, published = (Way("tcp", self.host.address, port) for port in (22, 8088))
        seen = self.field.probe(outside, [ssh, published, self.banned])
        assert seen == {ssh: "open", published: "open", self.banned: "refused"}
        connect = f"socket.create_connection(('{outside.address}', {FREE[0]}), 5)"
        ask(
            self.host.name,
            f'ip netns exec container python3 -c "import socket; {connect}"',
        )


@pytest.fixture(scope="module")
def others(field: Field) -> Iterator[Others]:
    """They were on the host before its firewall, and are there until the module ends."""
    others = Others(field)
    field.operator.ask(others.host.name, _CONTAINER)
    others.load_rules()
    yield others
    field.operator.ask(others.host.name, _NO_CONTAINER)


def test_every_flow_is_open_and_every_other_port_is_shut(field: Field) -> None:
    """From every host and from outside to every host, TCP and UDP, over IPv4 and over IPv6."""

    def expected(source: Place, target: Place, way: Way) -> set[str]:
        reached = target is field.outside or field.lets_in(source, target, way)
        return {"open"} if reached else {"silent"}

    assert field.wrong(expected) == []


@pytest.mark.parametrize("verb", ["start", "reload", "restart", "stop"])
def test_unit_of_debian_does_not_take_the_rules_away(operator: Operator, verb: str) -> None:
    """Whatever somebody does to nftables.service, which flushes every table."""
    operator.ask("db2", f"systemctl {verb} nftables")
    assert operator.ask("db2", _OPENED) != "0"


def test_firewall_without_its_rules_lets_in_nothing_but_ssh(operator: Operator) -> None:
    """The unit fails, status says so, and the host is still reached to mend it."""
    good = "/etc/tierstack/nftables.good"
    operator.ask("cache1", f"mv {good} {good}.away")
    try:
        assert operator.on("cache1", "systemctl restart tierstack-firewall").status == 1
        assert operator.ask("cache1", f"nft list table inet tierstack | {_ACCEPTED}") == (
            "tcp dport 22 accept"
        )
        lines = json.loads(operator.tierstack("status", str(operator.inventory), "--json").out)
        assert [line["notes"] for line in lines if line["host"] == "cache1"] == [
            "its firewall has lost its rules, and lets in nothing but SSH; type: pyinfra"
            f" {operator.inventory} deploy.py"
        ]
    finally:
        operator.ask("cache1", f"mv {good}.away {good}; systemctl restart tierstack-firewall")


def test_flushed_firewall_is_put_back(operator: Operator, others: Others) -> None:
    """
    Somebody has flushed every rule: the next run notices, though the unit says that it is active.

    Other programs have put theirs back first, and keep them. On another host the file is gone from
    which rules are loaded at boot: it is written anew.
    """
    operator.ask("cache2", "nft flush ruleset")
    operator.ask("cache1", "rm /etc/tierstack/nftables.good")
    others.load_rules()
    done = operator.deploy_well()
    assert done.changes == [
        "Firewall lets through what the flows name: cache1, cache2",
        "The firewall lets new connections in: cache1, cache2",
    ]
    assert "policy drop" in operator.ask("cache2", "nft list table inet tierstack")
    others.assert_at_work()


def test_ssh_stays_open_on_the_port_that_the_host_listens_on(
    operator: Operator, others: Others
) -> None:
    """An SSH server on another port than the inventory says is not locked out; others' rules stay."""
    drop_in = "/etc/ssh/sshd_config.d/second.conf"
    operator.ask("cache2", f"printf 'Port 22\\nPort 2022\\n' > {drop_in} && systemctl restart ssh")
    try:
        operator.deploy_well()
        rules = operator.ask("cache2", "nft list table inet tierstack")
        assert 'tcp dport 2022 accept comment "SSH"' in rules
        assert 'tcp dport 22 accept comment "SSH"' in rules
        others.assert_at_work()
    finally:
        operator.ask("cache2", f"rm {drop_in} && systemctl restart ssh")
        operator.deploy_well()


def test_run_through_a_tunnel_that_would_be_shut_is_refused(operator: Operator) -> None:
    """A new connection through it comes in, as it is up, and shows nothing of the next one."""
    line = 'lab_host("cache1", 31)'
    with tunnel_to(operator, "cache1") as address:
        there = f'("cache1", lab_host("cache1", 31)[1] | {{"ssh_hostname": "{address}"}})'
        operator.edit(line, there)
        try:
            done = operator.deploy("--data", "shut=yes")
            assert done.status == 1
            assert (
                "lab.py: 1 error, no host was changed\n  cache1: this run comes in by the tunnel tunnel"
                " (vxlan), and the firewall would shut udp 8472 (the kernel), where it arrives; write"
                ' base.incoming = ["udp 8472"], or reach it by an address outside of the tunnel'
                " (ssh_hostname in its line)\n"
            ) in done.err
        finally:
            operator.edit(there, line)


def test_nothing_comes_in_or_goes_out_that_is_not_listed(
    operator: Operator, field: Field, others: Others
) -> None:
    """
    With lists of what may come in and go out: flows and the lists, over IPv4 and IPv6; the site works.

    `tierstack plan` has said so. Without the list, anything may go out again.
    """
    outside = field.outside
    listed = [Way("tcp", outside.address, FREE[0]), Way("udp", outside.address6, FREE[1])]
    ways = [f"{way.protocol} {way.port} to {way.address}" for way in listed]
    incoming = [f"udp {FREE[0]}", f"tcp {FREE[1]} from {outside.address6}"]
    setting = f"base = dict(incoming={incoming!r}, outgoing={ways!r})\n\n{SITES}"

    def comes_in(source: Place, way: Way) -> bool:
        everybody, one = ("udp", FREE[0]), ("tcp", FREE[1])
        from_one = source is outside and ":" in way.address
        return (way.protocol, way.port) in ((everybody, one) if from_one else (everybody,))

    def expected(source: Place, target: Place, way: Way) -> set[str]:
        if (source, way) == (outside, others.banned):
            return {"refused"}
        answers = target is outside or field.lets_in(source, target, way) or comes_in(source, way)
        if source is outside:
            return {"open"} if answers else {"silent"}
        if way in listed or field.lets_out(source, target, way):
            return {"open"}
        # Where nobody would answer either, the kernel need not have come to reject it.
        return {"barred"} if answers else {"barred", "silent"}

    operator.edit(SITES, setting, "group_data/all.py")
    try:
        plan = json.loads(operator.tierstack("plan", str(operator.inventory), "--json").out)
        done = operator.deploy_well()
        assert [f"{o['name']}: {', '.join(o['hosts'])}" for o in plan["operations"]] == done.changes
        assert {line.partition(":")[0] for line in done.changes} == {
            "Firewall lets through what the flows name",
            "Firewall lets nothing else through",
            "The firewall lets new connections in",
        }
        assert (
            plan["summary"]
            == f"{_strict_rules(operator)} firewall rules; restarts nothing that serves"
        )
        assert field.wrong(expected) == []
        others.assert_at_work()
        _assert_site_works(operator)
        assert_nothing_changed(operator.deploy())
        # Rules come back while a session is open that they do not know, as a run's is.
        operator.ask("cache1", "nft flush ruleset")
        put_back = "sleep 1; systemctl restart tierstack-firewall; seq 3"
        assert operator.ask("cache1", put_back) == "1\n2\n3"
    finally:
        operator.edit(setting, SITES, "group_data/all.py")
        operator.deploy_well()
    ways_out = {
        Way(way.protocol, address, way.port)
        for way in listed
        for address in (outside.address, outside.address6)
    }
    assert set(field.probe(field.place("db1"), ways_out).values()) == {"open"}
    assert_nothing_changed(operator.deploy())


def _strict_rules(operator: Operator) -> int:
    """Return how many rules are new: two a host for what comes in, and what goes out, of which one
    replaces what let all."""
    cluster = operator.cluster()
    return sum(2 + len(cluster.exits(host) or ()) for host in cluster.hosts)


def _assert_site_works(operator: Operator) -> None:
    """Pages, static files, uploads, cached values and replication, and nothing is wrong anywhere."""
    page = operator.door.ask("/").text
    static = static_file(page)
    assert operator.door.ask(static).status == 200
    upload(operator, log_in(operator, "strict-editor"), "strict.png")
    psql = "runuser -u postgres -- psql -At -c"
    receiving = f"{psql} 'select status from pg_stat_wal_receiver'"
    # Over a connection that is made under these rules.
    operator.ask("db2", "systemctl restart postgresql@15-main")
    wait_until("db2 follows", lambda: operator.ask("db2", receiving) == "streaming", 30)
    operator.ask("web1", "systemctl restart 'tierstack-media-*'")
    status = str(operator.inventory)
    wait_until("all is well", lambda: operator.tierstack("status", status).status == 0)
