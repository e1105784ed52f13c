"""A web node goes and comes back by an operator's hand; visitors notice nothing."""

from __future__ import annotations

from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.visitor import Door, steady_visitor

DRAIN, UNDRAIN = "tasks/drain.py", "tasks/undrain.py"

#: A package source of the host's own, with a package that is Debian's but for a higher version.
_NEWER = """
set -e
rm -rf /var/tmp/newer && mkdir /var/tmp/newer && cd /var/tmp/newer
dpkg-deb -R $(ls /var/cache/apt/archives/{package}_*.deb) tree
sed -i 's/^Version: .*/&+newer1/' tree/DEBIAN/control
dpkg-deb -b tree newer.deb >/dev/null
dpkg-deb -f newer.deb > Packages
printf 'Filename: ./newer.deb\\nSize: %s\\nSHA256: %s\\n' \\
    $(stat -c %s newer.deb) $(sha256sum < newer.deb | cut -d' ' -f1) >> Packages
echo 'deb [trusted=yes] file:/var/tmp/newer ./' > /etc/apt/sources.list.d/newer.list
"""


def test_held_node_gets_no_visitors_until_it_is_let_go(operator: Operator) -> None:
    """Drained without a failed request; held over a reboot and a deploy; back when told to be."""
    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.run_file(DRAIN, "--data", "node=web2", "--data", "why=new disk")
        assert done.status == 0, done.said
        assert_nothing_changed(operator.run_file(DRAIN, "--data", "node=web2"))
        operator.lab("reboot", "web2")
        assert_nothing_changed(operator.deploy())
    assert seen.failed == []
    pages = [operator.door.ask("/status.json").text for _ in range(9)]
    assert not any('"node": "web2"' in page for page in pages)
    said = operator.tierstack("status", "--json", str(operator.inventory))
    assert said.status == 1
    assert "held back: new disk (" in said.out

    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.run_file(UNDRAIN, "--data", "node=web2")
        assert done.status == 0, done.said
    assert seen.failed == []
    pages = [operator.door.ask("/status.json").text for _ in range(9)]
    assert any('"node": "web2"' in page for page in pages)
    assert_nothing_changed(operator.run_file(UNDRAIN, "--data", "node=web2"))


def test_last_node_is_not_drained(operator: Operator) -> None:
    """Nobody takes the site down by one node too many, or by a name that is none."""
    for node in ("web1", "web2"):
        assert operator.run_file(DRAIN, "--data", f"node={node}").status == 0
    done = operator.run_file(DRAIN, "--data", "node=web3")
    assert done.status != 0
    assert (
        "lb1 sends visitors to no other node than web3: without it they get an error page;"
        " bring another node back first, or add --data last=yes"
    ) in done.err
    assert operator.on("web3", "test -e /etc/tierstack/hold").status == 1
    for node in ("web1", "web2"):
        assert operator.run_file(UNDRAIN, "--data", f"node={node}").status == 0
    done = operator.run_file(DRAIN, "--data", "node=db1")
    assert done.status != 0
    assert '"db1" is not a web node; add --data node=NODE, one of web1, web2, web3' in done.err


def test_reboot_of_a_node_fails_no_request(operator: Operator) -> None:
    """Somebody types `reboot` on a web node that serves."""
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.lab("reboot", "web1")
        wait_until(
            "web1 serves again",
            lambda: '"node": "web1"' in operator.door.ask("/status.json").text,
        )
    assert seen.requests > 20
    assert seen.failed == []


def test_second_balancer_joins_and_leaves(operator: Operator) -> None:
    """A line more under `balancer`: both let visitors in, and nobody noticed; a line less again."""
    line = 'lab_host("lb1", 10),'
    operator.edit(line, f'{line}\n    lab_host("lb2", 9),', "lab.py")
    operator.lab("up", str(operator.inventory))
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.failed == []
    second = Door(operator.cluster().host("lb2").address, operator.door.domain)
    assert second.ask("/status.json").status == 200
    assert_nothing_changed(operator.deploy())
    operator.edit(f'{line}\n    lab_host("lb2", 9),', line, "lab.py")
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.failed == []
    assert second.ask("/status.json").status == 503, "web nodes still let it in"


def test_apache_setting_rolls(operator: Operator) -> None:
    """A changed setting of Apache restarts one node after the other, each out of rotation."""
    operator.edit("sites = [", "web = dict(timeout_s=50)\n\nsites = [", "group_data/all.py")
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.failed == []
    for node in ("web1", "web2", "web3"):
        operator.ask(node, "grep -q '^Timeout 50$' /etc/apache2/conf-enabled/tierstack.conf")


def test_updates_of_packages_fail_no_request(operator: Operator) -> None:
    """
    Newer packages come to every host in its turn; what served older ones serves the new.

    As `apt-get upgrade` typed on a host would, a newer Apache by itself drains its node first.
    """
    newer = {"web1": "libapache2-mod-python", "web2": "apache2", "db2": "postgresql-15"}
    for node, package in newer.items():
        operator.ask(node, _NEWER.format(package=package))
    started = "systemctl show {} -p ActiveEnterTimestampMonotonic"
    apache = {node: operator.ask(node, started.format("apache2")) for node in ("web1", "web3")}
    standby = operator.ask("db2", started.format("postgresql@15-main"))
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.ask("web2", "apt-get update -q && apt-get install -y -q apache2")
        wait_until("web2 serves", lambda: '"node": "web2"' in _pages(operator))
        done = operator.run_file("tasks/update.py")
    assert done.status == 0, done.said
    changed = dict(change.split(": ") for change in done.changes)
    assert {name: set(hosts.split(", ")) for name, hosts in changed.items()} == {
        "Newer packages are downloaded": {"web1", "db2"},
        "Packages are up to date": {"web1", "db2"},
    }
    assert seen.requests > 20
    assert seen.failed == []
    for node, package in newer.items():
        assert "+newer1" in operator.ask(node, f"dpkg-query -W -f '${{Version}}' {package}")
    assert operator.ask("web1", started.format("apache2")) != apache["web1"]
    assert operator.ask("web3", started.format("apache2")) == apache["web3"]
    assert operator.ask("db2", started.format("postgresql@15-main")) != standby
    assert operator.on("web1", "test -e /usr/sbin/policy-rc.d").status == 1
    assert_nothing_changed(operator.run_file("tasks/update.py"))
    assert_nothing_changed(operator.deploy())
    for node in newer:
        operator.ask(node, "rm -r /etc/apt/sources.list.d/newer.list /var/tmp/newer")


def _pages(operator: Operator) -> str:
    return "".join(operator.door.ask("/status.json").text for _ in range(6))
