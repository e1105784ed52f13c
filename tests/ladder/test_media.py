"""Several media hosts: one has the uploads, the others a copy; and the uploads move from host to host."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.browser import Browser
from tests.look import static_file
from tests.needs import lab_directory, need_root
from tests.operator import BIN, ROOT, Deploy, Operator, assert_nothing_changed, wait_until
from tests.uploads import add_article, at_work, log_in, steady_uploader, upload
from tests.visitor import steady_visitor, steady_writer

#: A lab of its own: that of the stories may still be up.
_LAB = {
    "TIERSTACK_LAB_DIR": lab_directory("test-media-lab"),
    "TIERSTACK_LAB_SUBNET": "10.77.25.0/24",
}

_INVENTORY = '''"""One host for all that is not looked at here."""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

balancer = db = cache = [lab_host("one1", 10)]
web = [lab_host("web1", 11), lab_host("web2", 12)]
media = [lab_host("media1", 41), lab_host("media2", 42)]

cluster(__file__)
'''

ROOT_PATH = "/srv/example/media"
_NOTE = "/var/lib/tierstack/uploads/example"
_MEDIA2 = 'lab_host("media2", 42)'

#: How long a copy may be behind, in seconds.
_BEHIND_S = 5


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody with two media hosts, freshly deployed."""
    need_root()
    home = tmp_path_factory.mktemp("media")
    shutil.copytree(ROOT / "inventories" / "ladder" / "group_data", home / "group_data")
    shutil.copytree(ROOT / "example", home / "example")
    (home / "media.py").write_text(_INVENTORY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _LAB.items():
            patch.setenv(name, value)
        somebody = Operator.at(home / "media.py")
        somebody.edit("../../example", "example", "group_data/all.py")
        with somebody.fresh_hosts():
            somebody.deploy_well()
            yield somebody


@pytest.fixture(scope="module")
def editor(operator: Operator) -> Browser:
    """An editor who has logged in to the admin."""
    return log_in(operator)


def test_second_run_changes_nothing(operator: Operator) -> None:
    """Twice is the test of once; and `status` says who has the uploads, and who copies of them."""
    assert_nothing_changed(operator.deploy())
    assert "home of uploads" in status_of(operator, "media1")
    assert "copy of uploads from media1" in status_of(operator, "media2")


def test_upload_is_found_at_once(operator: Operator, editor: Browser) -> None:
    """Whichever host is asked first, a file of a moment ago is there; seconds later all have it."""
    for number in range(5):
        url, _ = upload(operator, editor, f"at once {number}.png")
        answers = [operator.door.ask(url).status for _ in range(20)]
        assert answers == [200] * 20, f"{number}: {answers}"
        wait_until(
            "media2 has it",
            lambda url=url: on_disk("media2", operator, url),  # type: ignore[misc]
            _BEHIND_S,
        )
    folder = f"{ROOT_PATH}/articles"
    assert operator.ask("media2", f"stat -c '%U %a' {folder}/*.png | sort -u") == "example 644"


def test_changes_of_every_kind_reach_the_copy(operator: Operator) -> None:
    """Written, renamed, deleted, with odd names, in new folders: as on the home, so on the copy."""
    script = (
        f"cd {ROOT_PATH} && mkdir -p a/b && echo 1 > 'a/b/[x] *?.txt' && echo 2 > a/b/two.txt"
        " && mkdir c && echo 3 > c/three.txt"
    )
    as_site(operator, script)
    wait_until("the copy is the same", lambda: alike(operator, "media1", "media2"), 15)
    as_site(
        operator,
        f"cd {ROOT_PATH} && mv a/b d && rm d/two.txt && mv c/three.txt d/ && echo 4 >> d/three.txt"
        " && rmdir a c",
    )
    wait_until("the copy is the same", lambda: alike(operator, "media1", "media2"), 15)
    listed = operator.ask("media2", f"ls {ROOT_PATH}/d")
    assert listed.splitlines() == ["[x] *?.txt", "three.txt"]


def test_what_the_site_plants_is_followed_by_nobody(operator: Operator) -> None:
    """Links stay links, pipes stay where they are; who reads for the copies may read what the site may."""
    as_site(
        operator,
        f"cd {ROOT_PATH} && ln -s /etc etc && ln -s /etc/victim .tierstack-leaving"
        " && echo 5 > set && chmod 4755 set",
    )
    operator.ask("media1", f"runuser -u example -- mkfifo {ROOT_PATH}/pipe")
    for host in ("media1", "media2"):
        operator.ask(host, "echo mine > /etc/victim")
    wait_until("the copy is the same", lambda: alike(operator, "media1", "media2"), 15)
    kinds = operator.ask(
        "media2", f"cd {ROOT_PATH} && stat -c '%n %F %U' etc set; ls pipe 2>&1 || true"
    )
    assert kinds.splitlines()[:2] == ["etc symbolic link example", "set regular file example"]
    assert "cannot access" in kinds
    assert operator.door.ask("/media/etc/hostname").status in (403, 404)
    assert operator.ask("media1", "ps -C lsyncd -o user=") == "example"


def test_miss_is_asked_once(operator: Operator) -> None:
    """A file that is nowhere costs one request a visitor, after the first; one that comes is found."""
    before = asked(operator)
    statuses = [operator.door.ask("/media/nowhere.txt").status for _ in range(10)]
    assert statuses == [404] * 10
    assert asked(operator) - before == 11
    as_site(operator, f"echo here > {ROOT_PATH}/nowhere.txt")
    assert [operator.door.ask("/media/nowhere.txt").status for _ in range(10)] == [200] * 10


@pytest.mark.parametrize("host", ["media2", "media1"])
def test_one_media_host_is_silent(operator: Operator, editor: Browser, host: str) -> None:
    """All files are served; without their home, uploads fail clearly, and pages go on."""
    url, _ = upload(operator, editor, f"before {host} fell silent.png")
    time.sleep(_BEHIND_S)
    with (
        steady_visitor(operator.door, url) as files,
        steady_visitor(operator.door, "/status.json", per_second=5) as pages,
    ):
        operator.lab("cut", host)
        try:
            answer = add_article(editor, f"while {host} is silent.png")
            if host == "media1":
                assert answer.status == 500, f"{answer.status} {answer.error}"
                assert answer.seconds < 10
            else:
                assert answer.status == 302, f"{answer.status} {answer.error}"
            wait_until("it was asked for a while", lambda: files.requests > 100)
        finally:
            operator.lab("heal", host)
        wait_until("web1 has its mount", lambda: mounted(operator, "web1"))
        wait_until("web2 has its mount", lambda: mounted(operator, "web2"))
    assert files.failed == []
    assert pages.failed == []
    wait_until("the copy has caught up", lambda: alike(operator, "media1", "media2"))
    upload(operator, editor, f"after {host} was silent.png")


def test_empty_disk_of_the_home_empties_no_copy(operator: Operator, editor: Browser) -> None:
    """From another directory nothing is copied, and a deploy is refused."""
    url, _ = upload(operator, editor, "kept.png")
    wait_until("media2 has it", lambda: on_disk("media2", operator, url), _BEHIND_S)
    operator.ask(
        "media1",
        f"mkdir /run/nothing && chmod 777 /run/nothing && mount --bind /run/nothing {ROOT_PATH}"
        " && systemctl restart tierstack-copies || true",
    )
    try:
        said = operator.deploy()
        time.sleep(3)
        assert on_disk("media2", operator, url)
        assert said.status != 0
        assert (
            f"MEDIA_ROOT {ROOT_PATH} lies on media1, and another directory is there now; nothing was"
            " changed. Mount its disk; or, if nothing is missing there, add --data media_home=media1 to the"
            " deploy"
        ) in said.err
        assert operator.ask("media1", f"ls -A {ROOT_PATH}") == ""
    finally:
        operator.ask("media1", f"umount {ROOT_PATH}")
    wait_until("uploads are copied again", lambda: sends(operator, "media1"))
    operator.deploy_well()
    assert_nothing_changed(operator.deploy())


def test_site_under_another_name(operator: Operator, editor: Browser) -> None:
    """
    A site that is missing in the list is asked for; it serves on until another one does.

    Then its data stays, and is there again when it comes back.
    """
    url, _ = upload(operator, editor, "of the first name.png")
    page = operator.door.ask("/").text
    static = static_file(page)
    settings, requirements = "group_data/all.py", "example/requirements.txt"
    operator.edit('name="example"', 'name="shop"', settings)
    said = operator.deploy()
    assert said.status == 1
    assert said.err.endswith(
        "2 errors, no host was changed\n"
        "  sites: example is served, as one1, web1, web2, media1 and media2 note, and is not in the list"
        " any more. A name is that of database, account and MEDIA_ROOT: a site under another one starts"
        ' empty. Write name="example" again; or, if it is to go, add --data removed=example: its'
        " database and its files stay where they are\n"
        "  sites[0].uid: 5800 is the number of example's account, whose files stay on the hosts; write"
        " uid=5801 for shop, and leave it there\n"
    ), said.err
    status = operator.tierstack("status", str(operator.inventory), "--json")
    assert "has no release of shop; serves example, which the inventory has no more" in status.out
    assert status.status == 1

    operator.edit('name="shop"', 'name="shop", uid=5801', settings)
    good = (operator.home / requirements).read_text(encoding="utf-8")
    operator.edit(good, f"{good}no-such-package-of-ours==1\n", requirements)
    with (
        at_work(operator, editor, url, "one who stays"),
        steady_visitor(operator.door, static, per_second=5) as files,
    ):
        assert operator.deploy("--data", "removed=example").status != 0
    assert files.failed == []
    (operator.home / requirements).write_text(good, encoding="utf-8")

    before = entries(operator, "example")
    with (
        steady_visitor(operator.door, "/", per_second=5) as pages,
        steady_visitor(operator.door, static, per_second=5) as files,
        steady_writer(operator.door, pause_s=0.2) as written,
    ):
        operator.deploy_well("--data", "removed=example")
    assert (pages.failed, files.failed, written.failed) == ([], [], [])
    rows = [entries(operator, "example") - before, entries(operator, "shop")]
    assert sum(rows) == written.count > 20, rows
    assert operator.door.ask(url).status == 404
    for host in operator.cluster().hosts:
        assert operator.ask(host.name, "systemctl --failed --no-legend") == ""
    assert_nothing_changed(operator.deploy())

    operator.edit('name="shop", uid=5801', 'name="example"', settings)
    operator.deploy_well("--data", "removed=shop")
    assert entries(operator, "example") == before + rows[0]
    assert operator.door.ask(url).status == 200
    assert alike(operator, "media1", "media2")
    assert operator.tierstack("status", str(operator.inventory)).status == 0


def test_third_media_host_joins(operator: Operator, editor: Browser) -> None:
    """A line more: it gets all files, what lay in its way is moved aside, and no visitor notices."""
    url, _ = upload(operator, editor, "before the third.png")
    operator.edit(_MEDIA2, f'{_MEDIA2}, lab_host("media3", 43)', "media.py")
    operator.lab("up", str(operator.inventory))
    operator.ask("media3", f"mkdir -p {ROOT_PATH} && echo mine > {ROOT_PATH}/mine.txt")
    with steady_visitor(operator.door, url) as seen:
        operator.deploy_well()
    assert seen.failed == []
    wait_until("media3 has all", lambda: alike(operator, "media1", "media3"))
    assert operator.ask("media3", f"cat {ROOT_PATH}.aside-*/mine.txt") == "mine"
    assert_nothing_changed(operator.deploy())
    for number in range(5):
        url, _ = upload(operator, editor, f"of three {number}.png")
        answers = [operator.door.ask(url).status for _ in range(30)]
        assert answers == [200] * 30, f"{number}: {answers}"


def test_home_must_be_in_the_inventory(operator: Operator) -> None:
    """Its line away: nothing is changed, and the way is named."""
    line = 'lab_host("media1", 41), '
    operator.edit(line, "", "media.py")
    said = operator.deploy()
    operator.edit("media = [", f"media = [{line}", "media.py")
    assert said.status != 0
    address = operator.cluster().host("media1").address
    assert (
        f"MEDIA_ROOT {ROOT_PATH} lies on {address}, which is no host of this inventory; nothing was"
        " changed. Put its line back, and to have it elsewhere, move it first (docs/moving.md); or, if it"
        " is lost for good, add --data media_home=HOST to the deploy, with the one of media2 and media3"
        " that has the newest files"
    ) in said.err
    for wrong, message in (
        ("", "no host is named; add --data to=HOST, one of media1, media2, media3"),
        (
            "web1",
            '"web1" cannot have MEDIA_ROOT; add --data to=HOST, one of media1, media2, media3',
        ),
    ):
        said = move(operator, wrong)
        assert said.status != 0
        assert message in said.err


def test_home_moves_under_load(operator: Operator, editor: Browser) -> None:
    """No file is lost, no read fails, uploads and writes wait; a deploy finds all as it should be."""
    url, _ = upload(operator, editor, "moves.png")
    time.sleep(_BEHIND_S)
    with at_work(operator, editor, url, "moving"):
        done = move(operator, "media2")
        assert done.status == 0, done.said[-6000:]
        assert "home of uploads" in status_of(operator, "media2")
    wait_until("media1 is a copy", lambda: alike(operator, "media2", "media1"))
    wait_until("media3 is a copy", lambda: alike(operator, "media2", "media3"))
    operator.deploy_well()
    assert_nothing_changed(operator.deploy())
    assert "copy of uploads from media2" in status_of(operator, "media1")
    for host in ("media1", "media2"):
        assert operator.ask(host, "cat /etc/victim") == "mine", "a planted link was written through"
    upload(operator, editor, "after the move.png")
    assert_nothing_changed(move(operator, "media2"))


@pytest.mark.parametrize("line", ["takes MEDIA_ROOT", "Starting operation: MEDIA_ROOT lies on"])
def test_move_that_is_killed_is_finished_by_the_next(
    operator: Operator, editor: Browser, line: str
) -> None:
    """Killed before or while it copies: the old home serves on, and the same command ends it."""
    url, _ = upload(operator, editor, f"killed at {line}.png")
    time.sleep(_BEHIND_S)
    target = "media1" if is_home(operator, "media2") else "media2"
    with at_work(operator, editor, url, f"killed at {line[:5]}"):
        killed_at(operator, target, line)
        done = move(operator, target)
        assert done.status == 0, done.said[-6000:]
    assert "home of uploads" in status_of(operator, target)
    operator.deploy_well()
    assert_nothing_changed(operator.deploy())


def test_move_that_was_cut_off_between_the_marks(operator: Operator, editor: Browser) -> None:
    """Nobody takes uploads until the same command ends it; files are served, and nothing is guessed."""
    url, _ = upload(operator, editor, "between the marks.png")
    home, target = ("media1", "media2") if is_home(operator, "media1") else ("media2", "media1")
    operator.ask(
        home,
        f"sed -i s/home/leaving/ {_NOTE} && systemctl stop tierstack-share",
    )
    said = operator.deploy()
    assert said.status != 0
    assert (
        f"a move of MEDIA_ROOT away from {home} was cut off, and uploads wait for its end; nothing was"
        f" changed. Type: pyinfra {operator.inventory} tasks/move_media.py --data to=HOST, with the same"
        " HOST as before"
    ) in said.err
    assert operator.door.ask(url).status == 200
    done = move(operator, target)
    assert done.status == 0, done.said[-6000:]
    wait_until("uploads are taken", lambda: mounted(operator, "web1") and mounted(operator, "web2"))
    upload(operator, editor, "after the cut.png")
    operator.deploy_well()
    assert_nothing_changed(operator.deploy())


def test_home_is_lost_for_good(operator: Operator, editor: Browser) -> None:
    """
    A copy takes its part at the first try, whatever the mounts are doing; the lost host comes back, and
    what only it has is brought over. No acknowledged file is missing, and what differs is named.
    """
    lost, heir = ("media1", "media2") if is_home(operator, "media1") else ("media2", "media1")
    number = 41 if lost == "media1" else 42
    url, _ = upload(operator, editor, "before the loss.png")
    time.sleep(_BEHIND_S)
    patient = Browser(replace(operator.door, patience_s=10.0))
    patient.cookies = dict(editor.cookies)
    with (
        steady_visitor(operator.door, url) as files,
        steady_visitor(operator.door, "/status.json", per_second=5) as pages,
        steady_uploader(patient, "lost") as uploaded,
    ):
        wait_until("some are there", lambda: len(uploaded.acknowledged) > 3)
        operator.lab("kill", lost)
        wait_until("uploads fail", lambda: uploaded.failed)
        line = re.search(rf'lab_host\("{lost}", {number}\)', operator.inventory.read_text())[0]  # type: ignore[index]
        keep = operator.inventory.read_text(encoding="utf-8")
        operator.inventory.write_text(
            re.sub(f"(, )?{re.escape(line)}(, (?=lab))?", "", keep, count=1)
        )
        operator.deploy_well(f"--data=media_home={heir}")
        for host in ("web1", "web2"):
            assert mount_source(operator, host) == operator.cluster().host(heir).address
        before = len(uploaded.acknowledged)
        wait_until("uploads go on", lambda: len(uploaded.acknowledged) > before + 3)
        operator.inventory.write_text(keep, encoding="utf-8")
        operator.lab("start", lost)
        operator.ask(lost, f"cd {ROOT_PATH} && runuser -u example -- sh -c 'echo 6 > set'")
        said = operator.deploy()
        assert f"both say that they have MEDIA_ROOT {ROOT_PATH}" in said.err
        done = move(operator, heir)
        assert done.status == 0, done.said[-6000:]
        assert (
            f"{ROOT_PATH}/set differs: the one of {heir} is served, that of {lost} is kept"
            in done.err
        )
    # What the host was sending as it lost its power.
    assert len(files.failed) <= 2, files.failed
    assert pages.failed == [], pages.failed
    assert operator.ask(heir, f"cat {ROOT_PATH}/set") == "5"
    assert operator.ask(lost, f"cat {ROOT_PATH}.aside-*/set") == "6"
    for picture in uploaded.acknowledged:
        assert on_disk(heir, operator, f"/media/articles/{picture}"), picture


def test_web_host_becomes_a_media_host(operator: Operator, editor: Browser) -> None:
    """Its mount and its key are gone before it gets files of its own."""
    operator.edit(', lab_host("web2", 12)]', "]", "media.py")
    operator.edit('lab_host("media3", 43)', 'lab_host("web2", 12)', "media.py")
    operator.deploy_well()
    home = next(host for host in ("media1", "media2") if is_home(operator, host))
    wait_until("web2 has all", lambda: alike(operator, home, "web2"))
    assert operator.ask("web2", f"findmnt -n {ROOT_PATH} || true") == ""
    left = "ls /etc/tierstack/share_* /etc/systemd/system/*/tierstack-media-* 2>/dev/null || true"
    assert operator.ask("web2", left) == ""
    upload(operator, editor, "with another media host.png")
    assert_nothing_changed(operator.deploy())


# What is looked at


def entries(operator: Operator, database: str) -> int:
    """Return how many rows visitors have written into a site's database."""
    query = "select count(*) from guestbook_entry where message = 'I was here.'"
    return int(operator.ask("one1", f"runuser -u postgres -- psql -XAt {database}", given=query))


def move(operator: Operator, to: str) -> Deploy:
    """Run the task."""
    data = [f"--data=to={to}"] if to else []
    return operator.run_file("tasks/move_media.py", *data)


def killed_at(operator: Operator, to: str, line: str) -> None:
    """Run the task, and kill it once it says this."""
    command = [str(BIN / "pyinfra"), str(operator.inventory), "tasks/move_media.py", "-y"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    said = ""
    with subprocess.Popen([*command, f"--data=to={to}"], cwd=ROOT, **pipes) as run:  # type: ignore[call-overload]
        for text in run.stderr:
            said += text
            if line in text:
                run.kill()
    assert line in said, said[-4000:]


def on_disk(host: str, operator: Operator, url: str) -> bool:
    """Return whether a media host's own disk has the file of a URL."""
    name = url.rpartition("/")[2].replace("%20", " ")
    return operator.on(host, f"test -s '{ROOT_PATH}/articles/{name}'").status == 0


def alike(operator: Operator, one: str, other: str) -> bool:
    """Return whether MEDIA_ROOT is the same on two hosts: names, contents, rights."""
    look = (
        f"cd {ROOT_PATH} && find . ! -path . ! -type p -printf '%P %y %m %u\\n' | sort;"
        " find . -type f -exec sha256sum {} + | sort"
    )
    first, second = operator.on(one, look), operator.on(other, look)
    return first.status == second.status == 0 and first.out == second.out != ""


def as_site(operator: Operator, command: str) -> None:
    """Run a command as the site on web1, where MEDIA_ROOT is mounted."""
    operator.ask("web1", "runuser -u example -- sh -e", given=command)


def mounted(operator: Operator, host: str) -> bool:
    """Return whether a host has MEDIA_ROOT mounted."""
    return operator.on(host, "systemctl is-active tierstack-media-example").status == 0


def mount_source(operator: Operator, host: str) -> str:
    """Return the address of the host that a host has MEDIA_ROOT mounted from."""
    said = operator.ask(host, f"findmnt -no SOURCE {ROOT_PATH}")
    return said.partition("@")[2].partition(":")[0]


def sends(operator: Operator, host: str) -> bool:
    """Return whether a host sends copies."""
    return operator.on(host, "systemctl is-active tierstack-copies").status == 0


def is_home(operator: Operator, host: str) -> bool:
    """Return whether a host has the uploads."""
    return operator.on(host, f"grep -q home {_NOTE}").status == 0


def status_of(operator: Operator, host: str) -> str:
    """Return what `tierstack status` says that a media host serves; nothing may be wrong there."""
    said = operator.tierstack("status", "--json", str(operator.inventory)).out
    lines = [line for line in json.loads(said) if (line["tier"], line["host"]) == ("media", host)]
    assert lines[0]["good"], lines
    return str(lines[0]["serves"])


def asked(operator: Operator) -> int:
    """Return how many requests the balancer has sent to media hosts."""
    shown = operator.ask("one1", "echo show stat | socat stdio /run/haproxy/admin.sock")
    rows = csv.DictReader(shown.lstrip("# ").splitlines())
    return sum(
        int(row["stot"])
        for row in rows
        if row["pxname"] == "media" and row["svname"].startswith("media")
    )
