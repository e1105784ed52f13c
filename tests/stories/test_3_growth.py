"""A web node comes and goes under a steady visitor who sees no failed request."""

from __future__ import annotations

from tests.operator import Operator, assert_nothing_changed
from tests.visitor import steady_visitor

LINE = 'lab_host("web3", 13),'


def test_node_is_added_and_removed_without_a_failed_request(operator: Operator) -> None:
    """A line more, and the node serves after the next run; the line away, and it leaves first."""
    operator.edit(LINE, LINE + '\n    lab_host("web4", 14),')
    operator.lab("up", str(operator.inventory))
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.requests > 100
    assert seen.failed == []
    answers = {
        operator.door.ask("/status.json").text.partition('"node": "')[2][:4] for _ in range(16)
    }
    assert answers == {"web1", "web2", "web3", "web4"}
    assert_nothing_changed(operator.deploy())

    operator.edit('\n    lab_host("web4", 14),', "")
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.requests > 50
    assert seen.failed == []
    answers = {
        operator.door.ask("/status.json").text.partition('"node": "')[2][:4] for _ in range(16)
    }
    assert answers == {"web1", "web2", "web3"}
    address = "".join(host.address for host in operator.cluster().tier("cache")[:1])
    probe = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/11211' 2>/dev/null && echo open || echo shut"
    lab_address = operator.cluster().host("web3").address.rpartition(".")[0] + ".14"
    assert operator.on_address(lab_address, probe).out.strip() == "shut"
    assert_nothing_changed(operator.deploy())


def test_release_rolls_without_a_failed_request(operator: Operator) -> None:
    """New code reaches every node, one after the other, and no visitor notices."""
    operator.edit("</footer>", "<!-- release two --></footer>", "example/templates/base.html")
    with steady_visitor(operator.door, "/") as seen:
        operator.deploy_well()
    assert seen.failed == []
    pages = [operator.door.ask("/").text for _ in range(9)]
    assert all("<!-- release two -->" in page for page in pages)


def test_changed_passwords_reach_everyone(operator: Operator) -> None:
    """Other passwords in the secrets file: site and standby go on with them (docker-mailman#769)."""
    secrets = operator.inventory.with_suffix(".secrets.toml")
    text = secrets.read_text(encoding="utf-8")
    lines = [
        f'{line.partition(" = ")[0]} = "q%41b\'s$x@:/;#ü"' if "_password = " in line else line
        for line in text.splitlines()
    ]
    secrets.write_text("\n".join(lines) + "\n", encoding="utf-8")
    operator.deploy_well()
    assert operator.door.ask("/status.json").status == 200
    streaming = operator.ask(
        "db2",
        "systemctl restart postgresql@15-main && sleep 3; runuser -u postgres -- psql -At -c"
        " 'select status from pg_stat_wal_receiver'",
    )
    assert streaming == "streaming"
    assert_nothing_changed(operator.deploy())
