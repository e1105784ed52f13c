"""
One site on the chapter's first arrangement, one host that is all there is; then it climbs to the last.

It is read and written meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench.report import insert
from tests.browser import Browser
from tests.files import assert_no_trick_gets_a_file
from tests.ladder.conftest import assert_large_upload_is_served, assert_root_files, deployed
from tests.ladder.traffic import Step, Traffic
from tests.look import assert_admin_is_whole, assert_browser_shows_the_site, assert_pages_are_whole
from tests.operator import BIN, ROOT, Operator, assert_nothing_changed, wait_until
from tests.uploads import dot, log_in, upload
from tests.visitor import steady_visitor, steady_writer

LADDER = ROOT / "inventories" / "ladder"


class Climber(Operator):
    """Somebody whose one inventory becomes each of the ladder's in turn."""

    def become(self, arrangement: str) -> None:
        """Write what one of the ladder's inventories says, and make the hosts that are new."""
        shutil.copy(LADDER / f"{arrangement}.py", self.inventory)
        self.lab("up", str(self.inventory))

    def have(self, before: str, after: str) -> None:
        """Replace a piece of the inventory, and make the hosts that are new."""
        self.edit(before, after, self.inventory.name)
        self.lab("up", str(self.inventory))

    def task(self, name: str, to: str) -> str:
        """Run a task that moves data; it must succeed. Return what it says."""
        done = self.run_file(f"tasks/{name}.py", "--data", f"to={to}")
        assert done.status == 0, done.said[-6000:]
        return done.said

    def refused(self, words: str) -> None:
        """Deploy; it is refused with these words before anything is changed."""
        done = self.deploy()
        assert done.status == 1
        assert words in done.err
        assert "operations" not in done.results, done.changes


@pytest.fixture(scope="module")
def climber(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Climber]:
    """Somebody with one host, freshly deployed."""
    with deployed(tmp_path_factory.mktemp("ladder"), "1-single-server", Climber) as somebody:
        yield somebody


@pytest.fixture(scope="module")
def editor(climber: Climber) -> Browser:
    """An editor who has logged in to the admin."""
    return log_in(climber)


def test_second_run_changes_nothing(climber: Climber) -> None:
    """Twice is the test of once; and `status` finds every tier on the one host."""
    assert_nothing_changed(climber.deploy())
    said = climber.tierstack("status", str(climber.inventory))
    assert said.status == 0, said.out
    # Long words go on in a line of their own.
    words = [line.split()[:2] for line in said.out.splitlines() if not line.startswith(" ")]
    assert words[1:5] == [[tier, "web1"] for tier in ("balancer", "web", "db", "cache")]


def test_apache_serves_uploads_and_static_files(climber: Climber, editor: Browser) -> None:
    """As a media host would: for long, under any name, harmless, and nothing that is hidden."""
    url, served = upload(climber, editor, "déjà reçu 日本 n°1.png", server="Apache")
    assert served["x-content-type-options"] == "nosniff"
    assert served["content-security-policy"] == ""
    assert climber.door.ask(url, headers={"If-None-Match": served["etag"]}).status == 304
    assert climber.door.ask(url.rpartition("/")[0] + "/").status in (403, 404), "a listing"
    folder = "/srv/example/media"
    assert climber.ask("web1", f"stat -c '%U %a' {folder}/articles/*.png") == "example 644"
    assert_large_upload_is_served(climber, editor)
    assert_no_trick_gets_a_file(climber)


def test_pages_are_whole(climber: Climber, editor: Browser) -> None:
    """Apache, which knows the types of files, says none of them of a page."""
    assert_pages_are_whole(climber.door)
    assert_admin_is_whole(editor)
    assert_browser_shows_the_site(climber.door)


def test_files_of_the_root_are_looked_up(climber: Climber) -> None:
    """What ends with one of the site's file_extensions is a file, and Django is never asked for it."""
    assert_root_files(climber)


def test_release_fails_no_request(climber: Climber) -> None:
    """The only node restarts; visitors who read and who write wait for it, and none is refused."""
    before = climber.door.ask("/static/css/site.css").status
    climber.edit("</footer>", "<!-- two --></footer>", "example/templates/base.html")
    with (
        steady_writer(climber.door, pause_s=0.2) as written,
        steady_visitor(climber.door, "/status.json") as seen,
    ):
        climber.deploy_well()
    assert seen.requests > 50
    assert seen.failed == []
    assert written.failed == []
    assert written.acknowledged
    rows = "select count(*) from guestbook_entry where message = 'I was here.'"
    kept = climber.ask("web1", f'runuser -u postgres -- psql -At example -c "{rows}"')
    assert int(kept) == len(written.acknowledged)
    assert "<!-- two -->" in climber.door.ask("/").text
    assert climber.door.ask("/static/css/site.css").status == before
    assert_nothing_changed(climber.deploy())


def test_broken_release_leaves_the_old_one_serving(climber: Climber) -> None:
    """Its pages fail: the old release comes back, and whoever has waited gets it."""
    climber.edit("{% load static %}", "{% load nothing %}", "example/templates/base.html")
    with steady_visitor(climber.door, "/status.json") as seen:
        stopped = climber.deploy()
    climber.edit("{% load nothing %}", "{% load static %}", "example/templates/base.html")
    assert stopped.status != 0
    assert seen.failed == []
    assert climber.door.ask("/").status == 200
    climber.deploy_well()  # Forgets the settings that were laid out for it.


def test_migration_that_waits_holds_nobody_up(climber: Climber) -> None:
    """
    Somebody has left a transaction open that reads a table which a migration changes.

    A run that is killed ends its migration; the next says who is in the way; once that session is
    gone, the same command goes through. Visitors and writers wait for a moment each.
    """
    (db,) = climber.cluster().tier("db")
    folder = climber.home / "example" / "guestbook" / "migrations"
    (folder / "0002_place.py").write_text(
        "from django.db import migrations, models\n\n\n"
        "class Migration(migrations.Migration):\n"
        '    dependencies = [("guestbook", "0001_initial")]\n'
        "    operations = [\n"
        '        migrations.AddField("Entry", "place", models.CharField(max_length=9, null=True)),\n'
        "    ]\n",
        encoding="utf-8",
    )
    few, line = "db = dict(migration_tries=2)\n\n", "sites = ["
    waits = "select count(*) from pg_stat_activity where query like 'ALTER TABLE%'"
    works = "ps -eo args | grep -c '[m]igrate_site\\|[t]ierstack-migrated'"
    with (
        open_transaction(climber, db.name, "select message from guestbook_entry where name='x'"),
        steady_visitor(climber.door, "/guestbook.json", per_second=5) as seen,
        steady_writer(climber.door, pause_s=0.2) as written,
    ):
        with begun(climber) as run:
            wait_until("it waits", lambda: _ask_database(climber, db.name, waits) == ["1"])
            run.kill()
        wait_until("its session has ended", lambda: _ask_database(climber, db.name, waits) == ["0"])
        wait_until("its process too", lambda: climber.on("web1", works).out.strip() == "0", 10)
        climber.edit(line, few + line, "group_data/all.py")
        stopped = climber.deploy()
        climber.edit(few + line, line, "group_data/all.py")
    assert stopped.status == 1
    assert re.search(
        r"web1: site example: guestbook\.0002_place waited for a lock for 2 s, 2 times over, and gave"
        r" way, so that pages do not wait for it; nothing of it was applied in this run, and what served before"
        r" serves on\. The lock is held by session (\d+) of postgres \(psql\) from the database host"
        r" itself, idle in transaction, its transaction open since 20[\d-]+ [\d:]+ UTC: select message"
        rf" from guestbook_entry where name=…\. Wait for its end, or type on {db.name}: runuser -u"
        r" postgres -- psql -c 'select pg_terminate_backend\(\1\);'; then deploy again\n",
        stopped.err,
    ), stopped.err[-4000:]
    climber.deploy_well()
    assert_nothing_changed(climber.deploy())
    assert (seen.failed, written.failed) == ([], [])
    assert seen.requests > 50
    kept = {int(row) for row in _ask_database(climber, db.name, "select id from guestbook_entry")}
    assert written.acknowledged
    assert written.acknowledged <= kept
    columns = "select count(place) from guestbook_entry"
    assert _ask_database(climber, db.name, columns) == ["0"]


@contextmanager
def open_transaction(operator: Operator, host: str, statement: str) -> Iterator[None]:
    """Have somebody at psql leave a transaction open on a db host."""
    unit = "somebody-at-psql"
    typed = f'(echo "begin; {statement};"; sleep 300) | runuser -u postgres -- psql -Xq example'
    operator.ask(host, f"systemd-run -q --collect --unit={unit} sh -c {shlex.quote(typed)}")
    try:
        yield
    finally:
        operator.ask(host, f"systemctl stop {unit}")


@contextmanager
def begun(operator: Operator) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a deploy that has been started, and that a signal ends at once, as the last thing."""
    command = [str(BIN / "pyinfra"), str(operator.inventory), "deploy.py", "-y"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet) as run:
        try:
            yield run
        finally:
            run.kill()


def test_climb(climber: Climber, editor: Browser) -> None:
    """Every acknowledged row and file is there at the end; who failed at which step is listed."""
    traffic = Traffic(climber.door, editor)
    with traffic.running():
        _climb(climber, traffic)
    table = _table(traffic.steps)
    print(table)
    if document := os.environ.get("TIERSTACK_CLIMB_TABLE"):
        text = Path(document).read_text(encoding="utf-8")
        Path(document).write_text(insert(text, "climb", table), encoding="utf-8")
    failed = {step.name: step.failed for step in traffic.steps if step.failed}
    assert failed == {}
    assert all(step.pages.done and step.rows.done for step in traffic.steps)
    _nothing_is_lost(climber, traffic)
    assert climber.tierstack("status", str(climber.inventory)).status == 0
    _database_whose_line_is_gone_is_not_replaced(climber)


def _climb(climber: Climber, traffic: Traffic) -> None:
    climber.have('db = [\n    lab_host("web1", 11),', 'db = [\n    lab_host("db1", 21),')
    climber.refused(
        "1 error, no host was changed\n  db: db1 holds no database, and the sites' is on web1;"
        f" write web1 in db as well, deploy, type pyinfra {climber.inventory}"
        " tasks/switchover.py --data to=db1, and then take web1 out of db;"
    )
    climber.have('lab_host("db1", 21),', 'lab_host("web1", 11),\n    lab_host("db1", 21),')
    climber.deploy_well()
    traffic.end_step("2: a second database host joins, as standby")
    climber.task("switchover", "db1")
    traffic.end_step("2: the database moves there")
    climber.become("2-database-apart")
    climber.deploy_well()
    traffic.end_step("2: the first one leaves")
    _postgresql_is_stopped(climber, "web1")

    climber.become("3-media-apart")
    climber.refused(
        "MEDIA_ROOT /srv/example/media lies on web1, which is no media host of this inventory, and"
        f" would be out of sight; nothing was changed. Type: pyinfra {climber.inventory}"
        " tasks/move_media.py --data to=media1; then deploy again"
    )
    said = climber.task("move_media", "media1")
    assert "type on it: rm -r /srv/example/media.aside-" in said
    traffic.end_step("3: uploads move to the media host")
    climber.deploy_well()
    traffic.end_step("3: it serves them")

    climber.become("4-load-balanced")
    climber.have('lab_host("lb1", 10),', 'lab_host("lb1", 10),\n    lab_host("web1", 11),')
    climber.deploy_well()
    traffic.end_step("4: a balancer and two web hosts join")
    traffic.lead_to(climber.cluster().host("lb1").address)
    climber.become("4-load-balanced")
    climber.deploy_well()
    traffic.end_step("4: the web host is a front door no more")
    assert climber.on("web1", "systemctl is-active haproxy memcached").out.split() == [
        "inactive",
        "active",
    ]

    climber.become("5-going-big")
    climber.deploy_well()
    traffic.end_step("5: a balancer, two standbys, a media host and caches join")
    traffic.lead_to(climber.cluster().host("lb2").address)
    climber.task("switchover", "db2")
    traffic.end_step("5: the primary moves to a standby, and the other one follows it")
    assert_nothing_changed(climber.deploy())
    traffic.end_step("5: nothing is left to do")
    assert climber.on("web1", "systemctl is-active memcached").out.strip() == "inactive"


def _postgresql_is_stopped(climber: Climber, former: str) -> None:
    """On a former db host, at boot too; its data stays, as a copy that is no primary."""
    unit = "postgresql@15-main"
    assert climber.on(former, f"systemctl is-active {unit}").out == "inactive\n"
    climber.ask(former, "systemctl daemon-reload")
    assert climber.on(former, f"systemctl is-enabled {unit}").out == "disabled\n"
    climber.ask(former, "test -e /var/lib/postgresql/15/main/standby.signal")
    assert "5432" not in climber.ask(former, "nft list table inet tierstack")


def _database_whose_line_is_gone_is_not_replaced(climber: Climber) -> None:
    """Neither by an empty one nor by a former copy, until that is asked for in so many words."""
    before, _, after = climber.inventory.read_text(encoding="utf-8").partition("db = [\n")
    after = after.partition("]")[2]
    climber.inventory.write_text(
        f'{before}db = [\n    lab_host("db9", 29),\n]{after}', encoding="utf-8"
    )
    climber.lab("up", str(climber.inventory))
    climber.refused("  db: db9 holds no database, and web1, web2 and web3 have the sites' at ")
    assert climber.door.ask("/").status == 200
    climber.deploy_well("--data", "start_empty=db9")
    assert_nothing_changed(climber.deploy())
    assert climber.door.ask("/guestbook.json").text.startswith('{"count": 0,')


def _nothing_is_lost(climber: Climber, traffic: Traffic) -> None:
    assert len(traffic.rows) > 100
    assert _ask_database(climber, "db2", "select pg_is_in_recovery()") == ["f"]
    for name in ("db2", "db1", "db3"):
        wait_until(f"{name} has all rows", partial(_has_rows, climber, name, traffic.rows))
    images = dict(
        line.split("|")
        for line in _ask_database(climber, "db2", "select title, image from articles_article")
    )
    sums = "cd /srv/example/media && sha256sum articles/*"
    wanted = {images[f"picture {n}.png"]: _sha256(dot(n)) for n in traffic.pictures}
    assert len(wanted) > 10
    for host in climber.cluster().tier("media"):
        lines = (line.split(None, 1) for line in climber.ask(host.name, sums).splitlines())
        there = {name: digest for digest, name in lines}
        assert wanted.items() <= there.items(), host.name


def _has_rows(climber: Climber, host: str, rows: set[int]) -> bool:
    there = _ask_database(climber, host, "select id from guestbook_entry")
    return rows <= {int(row) for row in there}


def _ask_database(climber: Climber, host: str, query: str) -> list[str]:
    """Return the lines that SQL prints on a host."""
    return climber.ask(host, "runuser -u postgres -- psql -XAt example", given=query).splitlines()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _table(steps: list[Step]) -> str:
    """Return who met with what, as Markdown."""
    lines = [
        "| step | takes | pages read: failed, slowest | files read: failed, slowest"
        " | rows written: failed, slowest | uploads: failed, slowest |",
        "|:--|--:|--:|--:|--:|--:|",
    ]
    for step in steps:
        cells = [
            f"{counted.done}: {len(counted.failed)}, {counted.slowest_s:.1f} s"
            for counted in (step.pages, step.files, step.rows, step.uploads)
        ]
        lines.append(f"| {' | '.join([step.name, f'{step.seconds:.0f} s', *cells])} |")
    return "\n".join(lines) + "\n"
