"""MEDIA_ROOT over NFS between hosts with kernels of their own: uploads, reboots, a silent server."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import unquote

import pytest

from tests.browser import Browser
from tests.look import static_file
from tests.operator import Operator, assert_nothing_changed, wait_until
from tests.uploads import add_article, at_work, log_in, upload
from tests.visitor import steady_visitor
from tests.vm.conftest import STORAGE

MEDIA_ROOT = "/srv/example/media"
WEB = ("web1", "web2")

#: How long an upload may take when the server is silent, in seconds.
FAILS_WITHIN_S = 5.0

#: How long visitors wait at most while uploads move, in seconds: 20, and these hosts are slow.
_PAUSE_S = 25.0

_SERVES = "systemctl is-active apache2"


@pytest.fixture(scope="module")
def editor(operator: Operator) -> Browser:
    """An editor who has logged in to the admin."""
    return log_in(operator)


def test_kernels_are_the_hosts_own(operator: Operator) -> None:
    """What follows is no container's doing: NFS comes from the kernel of each host."""
    kernel = operator.ask("lb1", "uname -r")
    for host in (*WEB, "media1"):
        assert operator.ask(host, "uname -r") != kernel
    for host in WEB:
        assert operator.ask(host, f"findmnt -no FSTYPE {MEDIA_ROOT}") == "nfs4"


def test_upload_lands_on_the_media_host(operator: Operator, editor: Browser) -> None:
    """An image uploaded in the admin lies on the media host's disk, and lighttpd serves it."""
    lands_on(operator, editor, "media1", "déjà vu n°1.png")


def test_each_node_replaces_and_deletes_what_another_wrote(operator: Operator) -> None:
    """Whatever numbers a host gave to its accounts before (commcare-cloud#69)."""
    assert operator.ask("web2", "id -u dummy") != operator.on("web1", "id -u dummy").out.strip()
    path = f"{MEDIA_ROOT}/of-web1.txt"
    as_site(operator, "web1", f"echo one > {path}")
    as_site(operator, "web2", f"echo two > {path}.new; mv {path}.new {path}; echo more >> {path}")
    wait_until("web1 sees it", lambda: operator.ask("web1", f"cat {path}") == "two\nmore", 10)
    assert operator.ask("media1", f"stat -c '%U:%G %a' {path}") == "example:example 644"
    as_site(operator, "web1", f"rm {path}")
    assert operator.on("media1", f"test -e {path}").status == 1


def test_silent_media_host_fails_uploads_and_nothing_else(
    operator: Operator, editor: Browser
) -> None:
    """Pages go on, an upload fails with an error instead of hanging, and all is well afterwards."""
    began = operator.ask("web1", "date +%s")
    with steady_visitor(operator.door, "/", per_second=5) as seen:
        operator.lab("cut", "media1")
        # One at the very moment, one when the hosts know.
        for number in (1, 2):
            answer = add_article(editor, f"lost {number}.png")
            assert answer.status == 500, f"{answer.status} {answer.error}"
            assert answer.seconds < FAILS_WITHIN_S
        for host in WEB:
            stuck = operator.ask(host, "ps -eo stat=,comm= | grep -c '^D.*apache2' || true")
            assert stuck == "0", host
            unit = f"journalctl --since=@{began} -u tierstack-media-example -o cat"
            assert "does not answer" in operator.ask(host, unit), host
        said = operator.tierstack("status", "--json", str(operator.inventory)).out
        assert "MEDIA_ROOT is not mounted for example" in said
        operator.lab("heal", "media1")
        wait_until_mounted(operator)
    assert seen.requests > 20
    assert seen.failed == []
    upload(operator, editor, "all is well.png")


def test_both_lose_power_and_the_web_host_is_back_first(
    operator: Operator, editor: Browser
) -> None:
    """It serves without MEDIA_ROOT, and mounts it once it is there."""
    for host in ("web1", "media1"):
        operator.lab("kill", host)
    operator.lab("start", "web1")
    wait_until("web1 serves", lambda: operator.on("web1", _SERVES).status == 0, 120)
    operator.lab("start", "media1")
    wait_until_mounted(operator)
    upload(operator, editor, "web1 came first.png")


def test_media_host_reboots_while_a_web_host_has_no_power(
    operator: Operator, editor: Browser
) -> None:
    """The mounts come back by themselves: of the web host that was there, and of the one that boots after."""
    operator.lab("kill", "web1")
    operator.lab("reboot", "media1")
    operator.lab("start", "web1")
    wait_until_mounted(operator)
    wait_until("web1 serves", lambda: operator.on("web1", _SERVES).status == 0, 120)
    upload(operator, editor, "media1 came first.png")


def test_second_run_changes_nothing(operator: Operator) -> None:
    """Twice is the test of once; after all that the hosts are as the deploy left them."""
    assert_nothing_changed(operator.deploy())


def test_other_hosts_cannot_mount(operator: Operator) -> None:
    """A host that is no web host is stopped by the firewall, and without it by the export."""
    storage1 = operator.cluster().host("web1").address.replace(".11", ".51")
    cannot_mount(operator, storage1, "media1")


def test_storage_host_does_not_hide_what_media_host_has(operator: Operator) -> None:
    """Uploads that lie on the media host stop a run that would mount the storage host over them."""
    operator.edit("media = ", f"{STORAGE}media = ", "lab.py")
    done = operator.deploy()
    assert done.status != 0
    assert (
        f"MEDIA_ROOT {MEDIA_ROOT} lies on media1, which is no storage host of this inventory, and would"
        f" be out of sight; nothing was changed. Type: pyinfra {operator.inventory}"
        " tasks/move_media.py --data to=storage1; then deploy again"
    ) in done.said
    assert operator.door.ask("/").status == 200


def test_uploads_move_to_the_storage_host(operator: Operator, editor: Browser) -> None:
    """What the refusal types: no file is lost, no read fails, uploads wait; then they land there."""
    url, _ = upload(operator, editor, "moves.png")
    before = files(operator, "media1")
    began = operator.ask("web1", "date +%s")
    try:
        with at_work(operator, editor, url, "moving", _PAUSE_S):
            done = operator.run_file("tasks/move_media.py", "--data=to=storage1")
            assert done.status == 0, done.said[-6000:]
            operator.deploy_well()
    finally:
        for host in (*WEB, "media1"):  # Shown where it fails.
            print(operator.ask(host, f"journalctl --since=@{began} -u tierstack-media-example"))
    moved = files(operator, "storage1")
    assert "./articles/moves.png" in before
    assert before.items() <= moved.items()
    kept = f"{MEDIA_ROOT}.aside-*"
    assert files(operator, "media1", kept).items() <= moved.items()
    lands_on(operator, editor, "storage1", "on the storage host.png")
    for host in (*WEB, "media1"):
        assert operator.ask(host, f"findmnt -no FSTYPE {MEDIA_ROOT}") == "nfs4"
    refused = operator.on("media1", f"runuser -u example -- touch {MEDIA_ROOT}/no")
    assert "Read-only file system" in refused.err
    assert operator.ask("media1", "exportfs -s") == "", "media1 still exports"
    assert_nothing_changed(operator.deploy())


def test_silent_storage_host_leaves_static_files(operator: Operator, editor: Browser) -> None:
    """The media server goes on with what lies on its own disk, though uploads were just read there."""
    url, _ = upload(operator, editor, "read meanwhile.png")
    page = operator.door.ask("/").text
    static = static_file(page)
    with (
        steady_visitor(operator.door, static, per_second=10) as seen,
        steady_visitor(operator.door, url, per_second=5),
    ):
        operator.lab("cut", "storage1")
        try:
            mounted = f"grep -q ' {MEDIA_ROOT} ' /proc/self/mountinfo"
            wait_until("media1 has let go", lambda: operator.on("media1", mounted).status == 1, 30)
            for _ in range(5):
                answer = operator.door.ask("/media/articles/x.png")
                assert answer.status in (403, 404), f"{answer.status} {answer.error}"
        finally:
            operator.lab("heal", "storage1")
    assert seen.requests > 20
    assert seen.failed == []
    wait_until_mounted(operator, *WEB, "media1")


def test_web_host_that_left_cannot_mount(operator: Operator) -> None:
    """A web host's line is deleted: the share is closed to it, by the firewall and by the export."""
    web2 = operator.cluster().host("web2").address
    operator.edit(', lab_host("web2", 12)', "", "lab.py")
    operator.deploy_well()
    writes = f"timeout -s KILL 15 runuser -u example -- touch {MEDIA_ROOT}/of-web2"
    assert operator.on_address(web2, writes).status != 0, "web2 still has MEDIA_ROOT"
    cannot_mount(operator, web2, "storage1")


def test_storage_host_is_lost_for_good(operator: Operator, editor: Browser) -> None:
    """Another host is named as the home: what still looks for the lost one has the other at the first try."""
    operator.lab("kill", "storage1")
    operator.edit(STORAGE, "", "lab.py")
    said = operator.deploy()
    assert (
        "or, if it is lost for good, put what you have of it into /srv/example/media on media1, and add"
        " --data media_home=media1 to the deploy"
    ) in said.err
    operator.deploy_well("--data=media_home=media1")
    wait_until_mounted(operator, "web1")
    source = operator.ask("web1", f"findmnt -no SOURCE {MEDIA_ROOT}")
    assert source == f"{operator.cluster().host('media1').address}:{MEDIA_ROOT}"
    lands_on(operator, editor, "media1", "home again.png", ["web1"])
    assert_nothing_changed(operator.deploy())


def lands_on(
    operator: Operator, editor: Browser, server: str, name: str, web: Sequence[str] = WEB
) -> None:
    """Upload a picture; it lies on the server's own disk, with the same owner and mode everywhere."""
    url, _ = upload(operator, editor, name)
    path = MEDIA_ROOT + unquote(url).removeprefix("/media")
    assert operator.ask(server, f"findmnt -no FSTYPE -T '{path}'") == "ext4"
    for host in (*web, server):
        said = operator.ask(host, f"stat -c '%U:%G %a' '{path}'")
        assert said == "example:example 644", host


def files(operator: Operator, host: str, root: str = MEDIA_ROOT) -> dict[str, str]:
    """Return the checksum of each file that lies in a directory on a host's own disk, by its path there."""
    said = operator.ask(host, f"cd {root} && find . -xdev -type f -exec sha256sum {{}} +")
    sums = (line.partition("  ") for line in said.splitlines())
    return {path: checksum for checksum, _, path in sums}


def as_site(operator: Operator, host: str, command: str) -> None:
    """Run a command as the site's account, with the umask that Apache gives it."""
    done = operator.on(host, f'runuser -u example -- sh -ec "umask 022; {command}"')
    assert done.status == 0, f"{host}: {done.said}"


def cannot_mount(operator: Operator, address: str, server: str) -> None:
    """Try to mount from an address, with the server's firewall and without."""
    target = operator.cluster().host(server).address
    attempt = (
        "mkdir -p /mnt/stolen; timeout 20 mount -t nfs -o vers=4.2,soft,timeo=20,retrans=1,retry=0"
        f" {target}:{MEDIA_ROOT} /mnt/stolen"
    )
    done = operator.on_address(address, attempt, 60)
    assert done.status != 0
    assert "access denied" not in done.err, "the firewall let it in"
    operator.ask(server, "nft delete table inet tierstack")
    try:
        done = operator.on_address(address, attempt, 60)
        assert done.status != 0
        assert "access denied by server" in done.err
    finally:
        operator.ask(server, "systemctl restart tierstack-firewall")


def wait_until_mounted(operator: Operator, *hosts: str) -> None:
    """Wait until MEDIA_ROOT is mounted and answers."""
    for host in hosts or WEB:
        mounted = f"timeout 5 stat -f -c %T {MEDIA_ROOT} | grep -q nfs"
        wait_until(f"mounted on {host}", lambda: operator.on(host, mounted).status == 0, 90)  # noqa: B023
