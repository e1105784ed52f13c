"""Runs that are killed at any moment: visitors notice nothing, nothing is lost, the next run repairs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

from tests.operator import BIN, ROOT, Operator, assert_nothing_changed
from tests.uploads import log_in, upload
from tests.visitor import steady_visitor, steady_writer

KILLS = 10
BASE = "example/src/templates/base.html"


def test_killed_runs_are_repaired_by_the_next(operator: Operator) -> None:
    """Ten runs die at random moments while visitors read, sign the guestbook and upload."""
    seed = int(time.time())
    chance = random.Random(seed)
    editor = log_in(operator, "night-editor")
    urls = []
    with (
        steady_visitor(operator.door, "/status.json", per_second=10) as seen,
        steady_writer(operator.door) as written,
    ):
        for number in range(KILLS):
            _change(operator, number)
            _run_and_kill(operator, chance.uniform(1, 18))
            url, _ = upload(operator, editor, f"between kills {number}.png")
            urls.append(url)
        operator.deploy_well()
    assert seen.requests > 100
    assert seen.failed == [], f"seed {seed}"
    assert written.failed == [], f"seed {seed}"
    assert_nothing_changed(operator.deploy())
    assert f"<!-- kill {KILLS - 1} -->" in operator.door.ask("/").text
    rows = operator.ask(
        "db1", "runuser -u postgres -- psql -At example -c 'select id from guestbook_entry'"
    )
    assert len(written.acknowledged) > 50
    assert written.acknowledged <= {int(row) for row in rows.split()}
    assert {url: operator.door.ask(url).status for url in urls} == dict.fromkeys(urls, 200)


def _change(operator: Operator, number: int) -> None:
    """Give the next run something to do: a release each time, and settings of other tiers in turn."""
    before = f"<!-- kill {number - 1} --></footer>" if number else "</footer>"
    operator.edit(before, f"<!-- kill {number} --></footer>", BASE)
    other = ("cache = dict(max_connections={})", "web = dict(timeout_s={})")[number % 2]
    (operator.home / "group_data" / "lab.py").write_text(
        (ROOT / "group_data" / "lab.py").read_text() + other.format(100 + number) + "\n"
    )


def _run_and_kill(operator: Operator, after_s: float) -> None:
    """Start a deploy, and take its process away after a while."""
    command = [str(BIN / "pyinfra"), str(operator.inventory), "deploy.py", "-y"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet) as run:  # type: ignore[call-overload]
        try:
            run.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
