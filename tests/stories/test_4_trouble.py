"""What goes wrong is said clearly, what served before still serves, and the next run converges."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.operator import BIN, ROOT, Operator, assert_nothing_changed, wait_until
from tests.stories.conftest import SETTINGS


@pytest.fixture(autouse=True)
def _healed(operator: Operator) -> Iterator[None]:
    """Every trouble ends with a run that is good, and one that changes nothing if that did."""
    yield
    assert operator.door.ask("/status.json").status == 200, "what served before no longer serves"
    if operator.deploy_well().changes:
        assert_nothing_changed(operator.deploy())


def test_silent_host_stops_the_run(operator: Operator) -> None:
    """A host that does not answer is named, nothing is changed, the others go on serving."""
    operator.lab("cut", "web3")
    try:
        done = operator.deploy()
        assert done.status != 0
        assert "[web3]" in done.err
        address = operator.cluster().host("web3").address
        assert (
            f"web3 does not let us in at {address}; no host was changed. Is it up, and is its line"
            " right (web[2]: address, ssh_hostname, ssh_user, ssh_key)?"
            f" Type: ssh root@{address}"
        ) in done.err
        assert operator.door.ask("/status.json").status == 200
        said = operator.tierstack("status", str(operator.inventory))
        assert said.status == 1
    finally:
        operator.lab("heal", "web3")
    wait_until("web3 answers", lambda: operator.on("web3", "true").status == 0)


def test_unsupported_system_is_refused(operator: Operator) -> None:
    """A host of another system is named before anything is changed."""
    operator.ask(
        "cache2",
        "sed -i.good 's/bookworm/trixie/; s/GNU.Linux 12/GNU\\/Linux 13/' /usr/lib/os-release",
    )
    try:
        done = operator.deploy()
    finally:
        operator.ask("cache2", "mv /usr/lib/os-release.good /usr/lib/os-release")
    assert done.status != 0
    assert (
        "lab.py: 1 error, no host was changed\n"
        "  cache2: runs Debian GNU/Linux 13 (trixie), which is not supported; install Debian 12 (bookworm) on it"
    ) in done.err


def test_settings_that_do_not_import_show_djangos_error(operator: Operator) -> None:
    """
    A settings module that fails is shown with Django's own words; the old release serves on.

    One that waits for ever is ended.
    """
    line, limit = 'source="example",', 'source="example",\n        build_s=20,'
    broken = (
        "import socket\nimport time\n\n"
        'if socket.gethostname() == "web2":\n    time.sleep(54321)\nimport no_such_module\n'
    )
    operator.edit("DEFAULT_AUTO_FIELD", f"{broken}DEFAULT_AUTO_FIELD", SETTINGS)
    operator.edit(line, limit, "group_data/all.py")
    done = operator.deploy()
    operator.edit(limit, line, "group_data/all.py")
    operator.edit(broken, "", SETTINGS)
    assert done.status != 0
    assert (
        "tierstack: web2: site example: manage.py check took longer than 20 s and was ended; see what"
        " it waits for, or write a larger build_s in the site, and deploy again; nothing that serves"
        " was changed."
    ) in done.err
    assert "ModuleNotFoundError: No module named 'no_such_module'" in done.err
    assert (
        ": site example does not start with mysite.settings, as Django says above"
        " (ModuleNotFoundError: No module named 'no_such_module'); correct it, and deploy again;"
        " nothing that serves was changed\n"
    ) in done.err


#: As a settings library does that takes over, and lets nobody change what it has.
TAKES_OVER = """
import django.conf


class Stubborn:
    def __init__(self, settings):
        vars(self)["settings"] = settings

    def __getattr__(self, name):
        own = {"MEDIA_ROOT": "/home/me", "SECRET_KEY": "mine"}
        return own[name] if name in own else getattr(self.settings, name)

    def __setattr__(self, name, value):
        pass


django.conf.settings = Stubborn(django.conf.settings)
"""


def test_settings_that_did_not_take_are_named(operator: Operator) -> None:
    """What the running site would have is looked at, and what would fail at the first upload or mail."""
    path = operator.home / SETTINGS
    good = path.read_text(encoding="utf-8")
    broken = good.replace("files.storage.FileSystemStorage", "files.storage.NoSuchStorage")
    assert broken != good
    path.write_text(broken + TAKES_OVER + '\nEMAIL_BACKEND = "no.such.Backend"\n', encoding="utf-8")
    done = operator.deploy()
    path.write_text(good, encoding="utf-8")
    assert done.status != 0
    said = [line.partition("[web1]")[2].strip() for line in done.err.splitlines()]
    start = next(i for i, line in enumerate(said) if line.startswith("EMAIL_BACKEND"))
    assert said[start : start + 5] == [
        "EMAIL_BACKEND: no.such.Backend cannot be used (ModuleNotFoundError: No module named 'no'), and"
        " the first mail would fail; correct it and what it needs",
        "MEDIA_ROOT: the running site has '/home/me' instead of '/srv/example/media', since something"
        " puts its own settings in the place of Django's (mysite.settings); have it leave this one"
        " alone",
        "SECRET_KEY: the running site has another value, since something puts its own settings in the"
        " place of Django's (mysite.settings); have it leave this one alone",
        "the default storage cannot be used (InvalidStorageError: Could not find backend"
        " 'django.core.files.storage.NoSuchStorage': Module \"django.core.files.storage\" does not"
        ' define a "NoSuchStorage" attribute/class), and the first upload would fail; correct'
        " STORAGES['default'] and what it needs",
        "tierstack: web1: site example would not run as it has to, as listed above; correct it in"
        " mysite.settings, and deploy again; nothing that serves was changed.",
    ]


#: A shell's words; a variable of its own is nobody else's to replace.
_ON_WEB2 = "here=$(hostname); test ${here} != web2"


#: What the site's account, which serves, sees and changes of a build that is under way.
_SERVING = """
for pid in $(pgrep -u tierstack-build); do
    runuser -u example -- sh -c "cat /proc/$pid/environ; kill -0 $pid && echo may end $pid" 2>/dev/null
done
for place in /srv/example/releases /var/cache/tierstack-build /var/lib/tierstack; do
    runuser -u example -- find $place ! -type l -writable 2>/dev/null
done
ls -ld /run/tierstack/build.env | grep -v '^-rw------- 1 root root'; true
"""


def test_build_command_that_fails_stops_before_anything_serves(operator: Operator) -> None:
    """
    A command of the site's own: its words, the line that decides, and the old release serves on.

    One that takes too long is ended, with the child that keeps its output open.
    """
    line = 'source="example",'
    slow = f"sh -c '{_ON_WEB2} || {{ setsid sleep 54321 & sleep 54321; }}'"
    commands = f'build=["{slow}", "python manage.py compress --force"], build_s=20,'
    operator.edit(line, f"{line}\n        {commands}", "group_data/all.py")
    said: list[str] = []
    # What a deploy leaves on hosts that the tree before has laid out.
    operator.ask("web2", "install -d -o example -g example /var/cache/tierstack/example")

    def look(_: object) -> None:
        works = "pgrep -x -u tierstack-build sleep"
        wait_until("web2 builds", lambda: operator.on("web2", works).status == 0, 120)
        said.append(operator.ask("web2", _SERVING))

    done = operator.deploy_meeting(" is laid out and starts", look)
    operator.edit(f"\n        {commands}", "", "group_data/all.py")
    assert done.status != 0
    assert said == [""], "who serves sees or changes how a release is made"
    assert operator.on("web2", "ls -d /var/cache/tierstack").status != 0
    assert (
        f"tierstack: web2: site example: its build command {slow!r} took longer than 20 s and was"
        " ended; see what it waits for, or write a larger build_s in the site, and deploy again;"
        " nothing that serves was changed."
    ) in done.err
    assert operator.on("web2", "pgrep -x sleep -a | grep 54321").out == ""
    assert "Unknown command: 'compress'" in done.err
    assert (
        "tierstack: web1: site example: its build command 'python manage.py compress --force' fails, as"
        " it says above; correct it, and deploy again; nothing that serves was changed."
    ) in done.err
    assert "fails, as it says above (Unknown command: 'compress'" in done.err


def test_requirement_that_does_not_install_shows_pips_error(operator: Operator) -> None:
    """A requirement that pip cannot install is named; the old release serves on."""
    path = operator.home / "example" / "requirements.txt"
    good = path.read_text(encoding="utf-8")
    path.write_text(good + "django-no-such-thing==99\n", encoding="utf-8")
    done = operator.deploy()
    path.write_text(good, encoding="utf-8")
    assert done.status != 0
    sentence = (
        "site example: requirements.txt: django-no-such-thing==99 does not install, as pip says above;"
        " correct that line, and deploy again; nothing that serves was changed."
    )
    for node in ("web1", "web2", "web3"):
        assert f"tierstack: {node}: {sentence}" in done.err
    assert "No matching distribution found for django-no-such-thing==99" in done.err


def test_state_that_stays_on_one_web_host_is_refused(operator: Operator) -> None:
    """Sessions, databases, caches and uploads that other web hosts do not see: all are named at once."""
    changes = (
        ('sessions.backends.db"', 'sessions.backends.file"'),
        (
            "\nSESSION_ENGINE",
            '\nDATABASES["old"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": "/srv/old.db"}\n'
            'CACHES["own"] = CACHES["default"]\nCACHES["parts"] = CACHES["default"]\n\nSESSION_ENGINE',
        ),
        (
            'files.storage.FileSystemStorage"},',
            'files.storage.FileSystemStorage", "OPTIONS": {"location": "/srv/uploads"}},',
        ),
    )
    line = 'source="example",'
    allowed = f'{line}\n        local_caches=["own"],'
    operator.edit(line, allowed, "group_data/all.py")
    for before, after in changes:
        operator.edit(before, after, SETTINGS)
    done = operator.deploy()
    for before, after in changes:
        operator.edit(after, before, SETTINGS)
    operator.edit(allowed, line, "group_data/all.py")
    assert done.status != 0
    said = [line.partition("[web1]")[2].strip() for line in done.err.splitlines()]
    start = next(i for i, line in enumerate(said) if line.startswith("CACHES["))
    assert said[start : start + 5] == [
        "CACHES['parts']: LocMemCache is another cache on each web host; let the site use 'default',"
        " which is the cluster's memcached, or if it may differ from host to host, write"
        " local_caches=['parts'] in the site",
        "DATABASES['old']: SQLite in /srv/old.db is another database on each web host; move its"
        " tables to 'default', or write a server that all of them reach",
        "SESSION_ENGINE: 'django.contrib.sessions.backends.file' keeps sessions in files, and visitors"
        " are logged out by the next web host; write 'django.contrib.sessions.backends.cached_db'",
        "STORAGES['default']: /srv/uploads is another directory on each web host; leave its location"
        " to MEDIA_ROOT, which all of them share",
        "tierstack: web1: site example keeps on one web host what all 3 must see, as listed above;"
        " correct it in mysite.settings, and deploy again; nothing that serves was changed.",
    ]


def test_port_that_is_taken_during_the_run_leaves_the_old_configuration(operator: Operator) -> None:
    """Something else takes the new port after the hosts were looked at: the old configuration serves on."""
    checker = "/usr/local/sbin/haproxy"
    listens = "ss -Hltn sport = 8443 | grep -q ."
    operator.ask(
        "lb1",
        f"printf '#!/bin/sh\\n{listens} || systemd-run -q --unit=squatter python3 -m http.server 8443\\n"
        f'until {listens}; do sleep 0.1; done\\nexec /usr/sbin/haproxy "$@"\\n\' > {checker}'
        f" && chmod 755 {checker}",
    )
    line, port = "sites = [", "balancer = dict(https_port=8443)\n\nsites = ["
    operator.edit(line, port, "group_data/all.py")
    try:
        done = operator.deploy()
    finally:
        operator.ask("lb1", f"rm {checker}; systemctl stop squatter")
        operator.edit(port, line, "group_data/all.py")
    assert done.status != 0
    assert "[lb1]    Error: executed 0 commands" in done.err
    assert "in use by another program" in done.err
    assert "tierstack: the old configuration is back in place" in done.err


def test_two_runs_at_once_do_not_meet(operator: Operator) -> None:
    """The second run says who is at work since when; a run that was killed leaves no lock behind."""
    file = operator.home / "slow.py"
    file.write_text(
        "from pyinfra.operations import server\n"
        "from tierstack.hosts import surveyed_cluster\n\n"
        "surveyed_cluster()\n"
        "server.shell(name='Takes its time', commands=['touch /run/slow; sleep 60'])\n"
    )
    command = [str(BIN / "pyinfra"), str(operator.inventory), str(file), "-y", "--limit", "cache2"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        try:
            wait_until(
                "it is at work", lambda: operator.on("cache2", "test -e /run/slow").status == 0
            )
            second = operator.deploy()
        finally:
            first.kill()
    assert second.status != 0
    assert "lab.py: 1 error, no host was changed\n  cache2: another run has it: " in second.err
    assert f"process {first.pid}); wait for its end, or end it" in second.err
    operator.deploy_well()


def test_rules_that_lock_out_are_taken_back(operator: Operator) -> None:
    """A firewall that lets no new SSH connection in is undone by the host itself; others' rules stay."""
    operator.ask("cache2", "nft 'add table inet of_another_program'")
    file = operator.home / "lock_out.py"
    file.write_text(
        "from pyinfra import host\n\nfrom roles import base\n"
        "from tierstack.hosts import surveyed_cluster\n\n"
        "base._ROLLBACK_S = 25  # not the 45 s of others\n"
        "me = surveyed_cluster().host(host.name)\n"
        "base._firewall('Nobody comes in', me, {'input': [], 'output': []})\n"
    )
    done = operator.run_file(file, "--limit", "cache2")
    assert done.status != 0
    assert (
        "cache2: the new firewall lets no new SSH connection in; the rules of before come back by"
        " themselves within 25 s"
    ) in done.err
    assert operator.on("cache2", "true").status != 0, "nothing was locked out"
    wait_until("cache2 lets us in again", lambda: operator.on("cache2", "true").status == 0, 60)
    rules = operator.ask("cache2", "nft list ruleset")
    assert "dport 11211" in rules
    assert "of_another_program" in rules
    operator.ask("cache2", "nft delete table inet of_another_program")


def test_no_web_node_left_shows_a_friendly_page(operator: Operator) -> None:
    """All web nodes are away: visitors get a page that says so, and the site comes back by itself."""
    nodes = [host.name for host in operator.cluster().tier("web")]
    for node in nodes:
        operator.lab("cut", node)
    try:
        wait_until("the page says so", lambda: operator.door.ask("/").status == 503)
        page = operator.door.ask("/")
        assert "We will be right back" in page.text
        assert page["retry-after"]
        assert "no-store" in page["cache-control"]
    finally:
        for node in nodes:
            operator.lab("heal", node)
    wait_until("the site is back", lambda: operator.door.ask("/").status == 200)
