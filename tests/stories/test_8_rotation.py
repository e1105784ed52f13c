"""A web node goes and comes back by an operator's hand; visitors notice nothing."""

from __future__ import annotations

from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.visitor import steady_visitor

DRAIN, UNDRAIN = "tasks/drain.py", "tasks/undrain.py"


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
    assert not any('"web2"' in page for page in pages)
    said = operator.tierstack("status", str(operator.inventory))
    assert said.status == 1
    assert "held back: new disk (" in " ".join(said.out.split())

    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.run_file(UNDRAIN, "--data", "node=web2")
        assert done.status == 0, done.said
    assert seen.failed == []
    pages = [operator.door.ask("/status.json").text for _ in range(9)]
    assert any('"web2"' in page for page in pages)
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
            lambda: '"web1"' in "".join(operator.door.ask("/status.json").text for _ in range(6)),
        )
    assert seen.requests > 20
    assert seen.failed == []
