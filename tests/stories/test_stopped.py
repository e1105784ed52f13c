"""Runs that stop half-way: visitors notice nothing, the last lines tell, the next run does the rest."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.operator import BIN, ROOT, Deploy, Operator, assert_nothing_changed, wait_until
from tests.visitor import steady_visitor

BASE = "example/src/templates/base.html"
ROLL = "Apache serves the release"

#: On web2: apt finds no way out once it is to install something, as it has told the preflight.
NO_WAY_OUT = r"""
cat > /usr/local/sbin/apt-get <<'END'
#!/bin/sh
case "$*" in
    *print-uris*) exec /usr/bin/apt-get "$@" ;;
    *) exec unshare --net /usr/bin/apt-get -o Acquire::Retries=0 "$@" ;;
esac
END
chmod 755 /usr/local/sbin/apt-get
"""

#: On web2: what lies there stays, and 20 MiB more find room.
SMALL_DISK = """
cd /srv/example
size=$(du -sm releases | cut -f 1)
mount -t tmpfs -o size=$((size + 20))m,mode=755 none /mnt
cp -a releases/. /mnt
mount --bind /mnt releases
umount /mnt
"""


@contextmanager
def served(operator: Operator) -> Iterator[None]:
    """Visitors get every page until the block ends; then a run that changes nothing follows."""
    with steady_visitor(operator.door, "/status.json", per_second=5) as seen:
        yield
    assert seen.requests > 50
    assert seen.failed == []
    assert_nothing_changed(operator.deploy())


def summary(done: Deploy) -> str:
    """Return the last lines of a run that has stopped; there is nothing else on standard output."""
    assert done.out == ""
    head, found, rest = done.err.partition("The run stopped half-way")
    assert found, head[-4000:]
    return found + rest


def again(operator: Operator) -> str:
    """Return how a summary of a run ends."""
    return (
        f"type the same again, each run does what is missing: pyinfra {operator.inventory}"
        f" deploy.py -y --json\nHow the nodes are now: tierstack status {operator.inventory}\n"
    )


def new_release(operator: Operator, number: int) -> None:
    """Change a template of the site."""
    operator.edit("</footer>", f"<!-- stop {number} --></footer>", BASE)


def test_package_and_disk_stop_the_run(operator: Operator) -> None:
    """One host cannot fetch a package, then has no room for the release: both are named, with the host."""
    line = 'source="example",'
    with served(operator):
        operator.edit(line, f'{line}\n        packages=["sl"],', "group_data/all.py")
        operator.ask("web2", NO_WAY_OUT)
        done = operator.deploy()
        operator.ask("web2", "rm /usr/local/sbin/apt-get")
        assert done.status == 1
        assert "E: Failed to fetch " in done.err
        told = summary(done)
        assert told.startswith(
            "The run stopped half-way: web2 failed. Host by host:\n  web2: failed in"
        )
        assert re.search(
            r'  web2: failed in "Packages of this host\'s tiers are installed": sl cannot be installed,'
            r" as apt says above \(E: Failed to fetch .*\); look whether this host reaches its package"
            r" sources \(apt-get update\), and deploy again; nothing that serves was changed\n"
            r"    nothing done\n"
            r'    not begun: "Accounts, kernel settings and journal limits are in place", ',
            told,
        ), told
        for node in ("web1", "web3"):
            packages = (
                f'  {node}: done up to "Packages of this host\'s tiers are installed", 1 changed\n'
            )
            assert packages in told
        assert told.endswith("Mend what web2 said; " + again(operator))

        new_release(operator, 1)
        operator.ask("web2", SMALL_DISK)
        done = operator.deploy()
        operator.ask("web2", "umount --lazy /srv/example/releases")
        assert done.status == 1
        told = summary(done)
        assert (
            "site example: no room is left on /srv/example/releases; make some"
            " (df -h /srv/example/releases), and deploy again; nothing that serves was changed\n"
            '    done up to "Settings of the sites are in place, beside those that serve", 2 changed\n'
            f'    not begun: "Release ID of example has the same packages everywhere", "{ROLL}"\n'
        ) in re.sub(r"Release \w{12} of", "Release ID of", told), told
        assert told.endswith("Mend what web2 said; " + again(operator))
        operator.edit('["sl"]', '["sl", "postgresql-client"]', "group_data/all.py")
        operator.deploy_well()
    assert "<!-- stop 1 -->" in operator.door.ask("/").text
    # It asks for psql where that is missing (test_5_operations), and it is there now.
    sql = "select current_user;\n"
    said = operator.ask("web1", "tierstack-manage example dbshell -- -At", given=sql)
    assert said == "example"
    line = '\n        packages=["sl", "postgresql-client"],'
    operator.edit(line, "", "group_data/all.py")
    for node in ("web1", "web2", "web3"):
        operator.ask(node, "apt-get -qq purge sl")


def test_hosts_that_vanish_stop_the_run(operator: Operator) -> None:
    """One web node loses its network and one its power: the run gives both up, and says how to look."""
    new_release(operator, 2)

    def strike(run: subprocess.Popen[str]) -> None:
        operator.lab("cut", "web2")
        operator.lab("kill", "web3")

    with served(operator):
        done = operator.deploy_meeting("Starting operation: Release ", strike)
        operator.lab("heal", "web2")
        operator.lab("start", "web3")
        assert done.status == 1
        assert "[web2]   has not answered for 20 s; the connection is given up" in done.err
        told = summary(done)
        assert told.startswith(
            "The run stopped half-way: the connection to web2 and web3 is lost. Host by host:\n"
            '  web2, web3: connection lost in "Release '
        )
        assert (
            '  lb1: done up to "The firewall lets new connections in", none changed\n'
            '    not begun: "Balancer serves the site on port 443"\n'
        ) in told
        assert "  cache1, cache2: all done, none changed\n" in told
        cluster = operator.cluster()
        logins = [f"{name} (ssh root@{cluster.host(name).address})" for name in ("web2", "web3")]
        assert told.endswith(f"See why {' and '.join(logins)} fell silent; " + again(operator))
        # The lock of the cut connection on web2 has run out by itself.
        operator.deploy_well()
    assert "<!-- stop 2 -->" in operator.door.ask("/").text


def test_interrupt_and_a_bad_value_stop_the_run(operator: Operator) -> None:
    """Ctrl-C while a node is out of rotation, then a value that only Apache finds wrong."""
    new_release(operator, 3)
    nodes = [host.name for host in operator.cluster().tier("web")]

    def interrupt(run: subprocess.Popen[str]) -> None:
        wait_until("a node is drained", lambda: _away(operator, nodes))
        run.send_signal(signal.SIGINT)

    with served(operator):
        done = operator.deploy_meeting(f"operation: {ROLL}", interrupt)
        assert done.status == 128 + signal.SIGINT
        told = summary(done)
        at_work = f'  web[123]: was at work on "{ROLL}", which may go on there\n    done up to "'
        assert re.match(f"The run stopped half-way, by Ctrl-C. Host by host:\n{at_work}", told), (
            told
        )
        assert f'    not begun: "{ROLL}"\n' in told
        assert told.endswith("\nType the same again, " + again(operator).partition(", ")[2])

        wait_until("it is back", lambda: not _away(operator, nodes))
        since = "systemctl show apache2 -p ActiveEnterTimestampMonotonic"
        started = [operator.ask(node, since) for node in nodes]
        # More bytes than Apache can count.
        group_data = operator.home / "group_data" / "lab.py"
        good = group_data.read_text(encoding="utf-8")
        group_data.write_text(f"{good}web = dict(upload_mb=10**13)\n", encoding="utf-8")
        done = operator.deploy()
        group_data.write_text(good, encoding="utf-8")
        assert done.status == 1
        assert "LimitRequestBody argument is not parsable" in done.err
        told = summary(done)
        [first] = re.findall(r"^The run stopped half-way: (web[123]) failed\.", told)
        assert re.search(
            rf'  {first}: failed in "{ROLL}": exit status 1 of: apachectl configtest \(AH00526: Syntax'
            r" error on line \d+ of \S+: LimitRequestBody argument is not parsable\.\);"
            r" the old configuration is back in place and still serves\n",
            told,
        ), told
        for node in set(nodes) - {first}:
            assert (
                f'  {node}: left out of "{ROLL}": {node} goes on with what it served before:'
                f" not changed, because {first} failed\n"
            ) in told
        assert [operator.ask(node, since) for node in nodes] == started
        operator.deploy_well()
    assert "<!-- stop 3 -->" in operator.door.ask("/").text


def _away(operator: Operator, nodes: list[str]) -> list[str]:
    """Return the web nodes that a deploy has taken out of rotation."""
    away = "test -e /run/tierstack/drain -o -e /run/tierstack/deploying"
    return [node for node in nodes if operator.on(node, away).status == 0]


def test_declined_run_is_not_well(operator: Operator) -> None:
    """Who answers anything else than Enter changes nothing, and the exit status says so."""
    settings = operator.home / "group_data" / "web.py"
    before = settings.read_text(encoding="utf-8") if settings.exists() else ""
    settings.write_text(before + "workers_limit = 3\n", encoding="utf-8")
    terminal, theirs = pty.openpty()
    command = [str(BIN / "pyinfra"), str(operator.inventory), "deploy.py"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        os.write(terminal, b"no\n")
        said = run.communicate(timeout=300)[1]
    for descriptor in (terminal, theirs):
        os.close(descriptor)
    settings.write_text(before, encoding="utf-8")
    assert run.returncode == 1, said[-4000:]
    assert "Declined: no host was changed.\n" in said, said[-4000:]
    assert_nothing_changed(operator.deploy())
