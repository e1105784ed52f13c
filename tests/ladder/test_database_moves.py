"""The chapter's second step: the database gets a host of its own, and cannot be lost on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.ladder.conftest import LAB
from tests.needs import need_root
from tests.operator import ROOT, Operator, assert_nothing_changed
from tests.visitor import steady_visitor, steady_writer

FILE = "1-single-server.py"
WEB1, DB1, DB2 = 'lab_host("web1", 11),', 'lab_host("db1", 21),', 'lab_host("db2", 22),'
POSTGRES = "postgresql@15-main"


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody with one host, freshly deployed, who adds a second one."""
    need_root()
    home = tmp_path_factory.mktemp("moves")
    shutil.copytree(ROOT / "inventories" / "ladder", home, dirs_exist_ok=True)
    shutil.copytree(ROOT / "example", home / "example")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        somebody = Operator.at(home / FILE)
        somebody.edit("../../example", "example", "group_data/all.py")
        with somebody.fresh_hosts():
            somebody.deploy_well()
            yield somebody


def test_database_moves_to_a_host_of_its_own(operator: Operator) -> None:
    """Writing the new host alone is refused; by the way that is told, no row and no request is lost."""
    with (
        steady_visitor(operator.door, "/", per_second=10) as readers,
        steady_writer(operator.door, pause_s=0.1) as written,
    ):
        write_db(operator, WEB1, DB1)
        operator.lab("up", str(operator.inventory))
        refused = operator.deploy()
        assert refused.status == 1
        assert (
            "1 error, no host was changed\n  db: db1 holds no database, and the sites' is on web1;"
            f" write web1 in db as well, deploy, type pyinfra {operator.inventory}"
            " tasks/switchover.py --data to=db1, and then take web1 out of db;"
        ) in refused.err

        write_db(operator, DB1, f"{WEB1}\n    {DB1}")
        operator.deploy_well()
        done = operator.run_file("tasks/switchover.py", "--data", "to=db1")
        assert done.status == 0, done.said[-6000:]
        assert_nothing_changed(operator.deploy())
        write_db(operator, f"{WEB1}\n    {DB1}", DB1)
        operator.deploy_well()
        assert_nothing_changed(operator.deploy())
    assert readers.failed == []
    assert written.failed == []
    ids = "runuser -u postgres -- psql -At example -c 'select id from guestbook_entry'"
    assert written.acknowledged <= {int(row) for row in operator.ask("db1", ids).split()}


def test_former_host_keeps_its_data_and_serves_it_no_more(operator: Operator) -> None:
    """PostgreSQL is stopped, at boot too; its directory stays, as a copy that is no primary."""
    assert operator.on("web1", f"systemctl is-active {POSTGRES}").out == "inactive\n"
    operator.ask("web1", "systemctl daemon-reload")
    assert operator.on("web1", f"systemctl is-enabled {POSTGRES}").out == "disabled\n"
    operator.ask("web1", "test -e /var/lib/postgresql/15/main/standby.signal")
    assert "5432" not in operator.ask("web1", "nft list table inet tierstack")


def test_database_whose_line_is_gone_is_not_replaced(operator: Operator) -> None:
    """Neither by an empty one nor by the former copy, until that is asked for in so many words."""
    write_db(operator, DB1, DB2)
    address = operator.cluster().host("db2").address.removesuffix("22") + "21"
    operator.lab("up", str(operator.inventory))
    refused = operator.deploy()
    assert refused.status == 1
    assert (
        f"  db: db2 holds no database, and web1 has the sites' at {address}; put that host back in db,"
        " with the disk; or, to start with an empty one, add --data start_empty=db2, and what the"
        " sites have stored is used no more\n"
    ) in refused.err
    assert operator.door.ask("/").status == 200

    operator.deploy_well("--data", "start_empty=db2")
    assert_nothing_changed(operator.deploy())
    assert operator.door.ask("/guestbook.json").text.startswith('{"count": 0,')


def write_db(operator: Operator, before: str, after: str) -> None:
    """Change the lines of the group `db`."""
    operator.edit(f"db = [\n    {before}\n]", f"db = [\n    {after}\n]", FILE)
