"""What went wrong for others: slow visitors, requirements that do not install, a node that is broken."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.browser import Browser
from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.slow import elsewhere, open_ones, silent_visitors, slow_visitors
from tests.visitor import Answer, Door, steady_visitor

NODES = ("web1", "web2", "web3")
FORM = "application/x-www-form-urlencoded"
CONTEXT = "example/src/articles/context_processors.py"
REQUIREMENTS = "example/requirements.txt"


def test_slow_visitors_keep_no_one_waiting(operator: Operator) -> None:
    """
    Hundreds who send a byte each few seconds are cut off, and pages are as fast as before (serverfault 32361).

    Bodies that nobody wants are no exception. Somebody on a bad line, whose upload goes on steadily,
    is none of them.
    """
    head = f"Host: {operator.door.domain}\r\n".encode()
    head += b"Cookie: csrftoken=" + b"x" * 32 + b"\r\n"
    head += f"Referer: https://{operator.door.domain}/\r\nContent-Type: {FORM}\r\n".encode()
    body = b"POST /guestbook/ HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n"
    never_asked = b"GET / HTTP/1.1\r\n" + head + b"X-Slow: "
    never_told = body % 100
    half_told = body % 60_000 + b"x" * 20_000
    unwanted = body % 900_000_000 + b"x" * 20_000
    endless = b"POST /guestbook/ HTTP/1.1\r\n" + head + b"Transfer-Encoding: chunked\r\n\r\n"
    endless += b"fffff\r\n" + b"x" * 20_000
    with steady_visitor(operator.door, "/status.json", per_second=10) as before:
        time.sleep(3)
    with steady_upload(operator) as upload:
        wait_until("a worker waits for the upload", lambda: queue(operator, "uploads")[1] == 1)
        with (
            elsewhere(operator.door) as address,
            slow_visitors(
                operator.door, address, 390, never_asked, never_told, half_told, unwanted, endless
            ) as slow,
            steady_visitor(operator.door, "/status.json", per_second=5) as seen,
        ):
            # Some say a byte at the moment when they are cut, and do not read why.
            wait_until("those who fit the buffer are cut off", lambda: slow.waiting <= 234)
            assert slow.answers[408] > 120, slow.answers
            kept = [queue(operator, name) for name in ("uploads", "crowd")]
            assert sum(map(sum, kept)) > 50, f"the slow bodies are no load: {kept}"
            assert queue(operator, "refused")[1] > 100, "bodies that nobody wants are not read"
            assert queue(operator, "web")[0] < 50
            wait_until("and so are all others", lambda: slow.waiting == 0)
            assert slow.answers[408] > 250, slow.answers
            assert slow.answers[200] + slow.answers[302] == 0, slow.answers
    assert seen.requests > 50
    assert seen.failed == []
    assert seen.slowest_s < 10 * max(before.slowest_s, 0.5)
    assert [answer.status for answer in upload] == [302], upload
    web1 = operator.cluster().host("web1").address
    direct = Door(web1, operator.door.domain, tls=False, port=8080).ask("/", timeout_s=2)
    assert direct.status == 0, "a stranger reaches a web node"


def test_one_address_leaves_room_for_others(operator: Operator) -> None:
    """Somebody connects without end, and asks for what takes long, a hundred times at once."""
    page = b"GET /slow/?seconds=8 HTTP/1.1\r\nHost: " + operator.door.domain.encode() + b"\r\n\r\n"
    with (
        elsewhere(operator.door) as address,
        steady_visitor(operator.door, "/status.json", per_second=5) as seen,
    ):
        with silent_visitors(operator.door, 450, address) as silent:
            wait_until("it has its share", lambda: open_ones(silent) <= 400)
            assert open_ones(silent) > 300
            time.sleep(3)
        with slow_visitors(operator.door, address, 100, page) as slow:
            wait_until("they wait for workers", lambda: sum(queue(operator, "crowd")) > 50)
            time.sleep(3)
            assert slow.waiting == 100, slow.answers
    assert seen.requests > 30
    assert seen.failed == []
    assert seen.slowest_s < 2


@contextmanager
def steady_upload(operator: Operator) -> Iterator[list[Answer]]:
    """Send a form of 45 kB: 20 kB at once, then 1 kB a second; gives the answer when the block ends."""
    browser = Browser(operator.door)
    token = re.search(
        r'name="csrfmiddlewaretoken" value="([^"]+)"', browser.get("/guestbook/").text
    )
    assert token
    body = f"csrfmiddlewaretoken={token[1]}&message=slowly&padding=".encode().ljust(45_000, b"x")
    answers: list[Answer] = []

    def pieces() -> Iterator[bytes]:
        yield body[:20_000]
        for start in range(20_000, len(body), 1000):
            time.sleep(1)
            yield body[start : start + 1000]

    def send() -> None:
        headers = {
            "Cookie": f"csrftoken={browser.cookies['csrftoken']}",
            "Referer": f"https://{operator.door.domain}/guestbook/",
            "Content-Type": FORM,
            "Content-Length": str(len(body)),
        }
        answers.append(operator.door.ask("/guestbook/", "POST", pieces(), headers, timeout_s=60))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    yield answers
    sender.join(timeout=90)


def queue(operator: Operator, backend: str) -> tuple[int, int]:
    """Return how many requests wait in one of the balancer's queues, and how many are worked on."""
    command = 'echo show stat | socat - /run/haproxy/admin.sock | awk -F, \'$1 == "{}" && $2 == "BACKEND" {{print $3, $5}}\''
    waiting, all_of_them = operator.ask("lb1", command.format(backend)).split()
    return int(waiting), int(all_of_them) - int(waiting)


def test_requirements_stop_before_a_node_is_changed(operator: Operator) -> None:
    """
    A hashed requirement asks for hashes of all, and what git fetches can have none (addons-server#2300).

    pip's own words are shown for each host, the missing git is named, and the old release serves.
    """
    path = operator.home / REQUIREMENTS
    good = path.read_text(encoding="utf-8")
    hashed = good.replace("Pillow", f"Pillow==11.3.0 --hash=sha256:{'0' * 64}")
    from_git = "own-thing @ git+https://me:s3cret@git.example.com/own-thing.git@v1"
    served = releases(operator)

    path.write_text(f"{hashed}{from_git}\n", encoding="utf-8")
    said = operator.tierstack("check", str(operator.inventory)).said
    assert (
        "sites[0].packages: requirements.txt, line 5: pip needs git on every web host for that;"
        ' write packages=["git"]'
    ) in " ".join(said.split())

    # On a condition, which only pip can judge.
    path.write_text(f"{hashed}{from_git} ; python_version > '3'\n", encoding="utf-8")
    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.deploy()
    assert done.status != 0
    assert "we don't have a way to hash version control repositories" in done.err
    for node in NODES:
        assert (
            f"tierstack: {node}: site example: requirements.txt:"
            " own-thing@ git+https://****@git.example.com/own-thing.git@v1 does not install, as pip"
            " says above; correct that line; pip needs git for it, which is not here: write"
            " packages=['git'] in the site, and deploy again; nothing that serves was changed."
        ) in done.err
    assert "s3cret" not in done.said
    assert seen.requests > 50
    assert seen.failed == []
    assert releases(operator) == served

    path.write_text(hashed.replace("0" * 64, "1" * 64), encoding="utf-8")
    done = operator.deploy("--limit", "web1")
    path.write_text(good, encoding="utf-8")
    assert done.status != 0
    assert "In --require-hashes mode, all requirements must have their versions pinned" in done.err
    assert "tierstack: web1: site example: requirements.txt: " in done.err
    assert releases(operator) == served
    operator.deploy_well()
    assert_nothing_changed(operator.deploy())


def releases(operator: Operator) -> dict[str, str]:
    """Return by node the release that Apache serves there."""
    command = "grep -o '/srv/example/releases/[0-9a-f]*' /etc/apache2/sites-enabled/example.conf | head -1"
    return {node: operator.ask(node, command) for node in NODES}


def test_roll_stops_at_the_first_broken_node(operator: Operator) -> None:
    """
    One node that is broken ends the roll: those behind it go on as they are (pyinfra#1195).

    First web1, on which Apache no longer starts, then web2, on which the new release answers 500.
    """
    (operator.home / "group_data" / "web.py").write_text("upload_mb = 90\n", encoding="utf-8")
    served = states(operator)
    drop_in = "/etc/systemd/system/apache2.service.d/zz-broken.conf"
    operator.ask("web1", f"printf '[Service]\nExecStartPre=/bin/false\n' > {drop_in}")
    operator.ask("web1", "systemctl daemon-reload")
    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.deploy()
    assert done.status != 0
    assert (
        "[web1]   tierstack: the old configuration is back in place, and does not run either;"
        " look: journalctl -u apache2.service, mend it, and deploy again"
    ) in done.err
    for node in ("web2", "web3"):
        assert (
            f"{node} goes on with what it served before: not changed, because web1 failed"
        ) in done.err
    assert seen.failed == []
    assert states(operator) == served
    assert in_rotation(operator) == {"web2", "web3"}

    operator.ask("web1", f"rm {drop_in} && systemctl daemon-reload")
    operator.edit("return {", 'open("/etc/motd").close()\n    return {', CONTEXT)
    operator.ask("web2", "chmod 600 /etc/motd")
    with steady_visitor(operator.door, "/status.json") as seen:
        done = operator.deploy()
    assert done.status != 0
    assert "[web2]   example: https://example.test/ answers 500;" in done.err
    assert "[web2]   PermissionError: [Errno 13] Permission denied: '/etc/motd'" in done.err
    assert (
        "[web2]   tierstack: the old configuration is back in place and runs; look: journalctl -u"
        " apache2.service, mend it, and deploy again"
    ) in done.err
    assert "web3 goes on with what it served before: not changed, because web2 failed" in done.err
    assert seen.failed == []
    now = states(operator)
    assert (now["web2"], now["web3"]) == (served["web2"], served["web3"])
    assert "LimitRequestBody 94371840" in now["web1"]
    assert now["web1"].split()[0] != served["web1"].split()[0], "web1 serves the old release"
    assert in_rotation(operator) == set(NODES)

    operator.ask("web2", "chmod 644 /etc/motd")
    with steady_visitor(operator.door, "/status.json") as seen:
        operator.deploy_well()
    assert seen.failed == []
    assert set(states(operator).values()) == {now["web1"]}
    assert_nothing_changed(operator.deploy())


def states(operator: Operator) -> dict[str, str]:
    """Return by node the release and the upload limit that Apache has there."""
    command = "grep -h '^LimitRequestBody' /etc/apache2/conf-enabled/tierstack.conf"
    return {
        node: f"{release} {operator.ask(node, command)}"
        for node, release in releases(operator).items()
    }


def in_rotation(operator: Operator) -> set[str]:
    """Return the nodes to which the balancer sends visitors."""
    answers = [operator.door.ask("/status.json").text for _ in range(12)]
    return {node for node in NODES if any(f'"node": "{node}"' in text for text in answers)}
