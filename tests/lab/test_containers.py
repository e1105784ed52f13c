"""The lab on real containers: hosts are made, broken, healed and removed."""

import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.lab.hosts import knock, why_no_hosts
from tests.needs import need
from tierstack.lab import HostStatus, Lab, LabError, Settings

# A lab of its own, beside one that the developer may have; only the image is shared.
SUBNET = IPv4Network("10.113.91.0/24")
WEB1, WEB2, WEB3 = "10.113.91.11", "10.113.91.12", "10.113.91.13"
BRIDGE = Path("/sys/class/net/tierlab0a715b00")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab that does not exist yet, and is removed afterwards."""
    need(why_no_hosts())
    lab = Lab(Settings(directory=tmp_path / "lab", subnet=SUBNET))
    yield lab
    lab.down()


def boots(lab: Lab, host: str) -> str:
    """Identify a host's present boot: the machine's process that is its init."""
    found = ["lxc-info", "-P", str(lab.settings.hosts), "-n", host, "-pH"]
    return subprocess.run(found, capture_output=True, text=True, check=True).stdout


def test_the_life_of_a_lab(lab: Lab) -> None:
    """Hosts come up once, fail like real ones, come back with their data, and go."""
    two = {"web1": WEB1, "web2": WEB2}
    lab.up(two)
    both = tuple(HostStatus(name, two[name], "running", cut=False) for name in two)
    assert lab.status() == both
    assert lab.ssh("web1", "hostname && systemctl is-system-running").stdout == "web1\nrunning\n"
    assert lab.ssh("web1", "getent ahostsv4 web1").stdout.startswith("127.0.1.1 ")
    assert knock(lab, "web1", WEB2) == "open"

    # Again: nothing changes. One more host: only that one is made.
    first = boots(lab, "web1")
    lab.up(two)
    assert boots(lab, "web1") == first
    lab.up({**two, "web3": WEB3})
    assert boots(lab, "web1") == first
    assert [host.name for host in lab.status()] == ["web1", "web2", "web3"]

    # Keys are each host's own, and known before the first connection.
    keys = lab.settings.known_hosts.read_text().splitlines()
    assert len({key.split()[2] for key in keys}) == 3

    # A cut is silence, in both directions, for the machine too; another host sees nothing of it.
    lab.cut("web2")
    assert lab.status()[1] == HostStatus("web2", WEB2, "running", cut=True)
    assert knock(lab, "web1", WEB2) == "silent"
    assert knock(lab, "web1", WEB3) == "open"
    assert lab.shell("web2", ["sh", "-c", f"timeout 2 bash -c '</dev/tcp/{WEB1}/22'"]) == 124
    lab.heal("web2")
    assert knock(lab, "web1", WEB2) == "open"
    assert knock(lab, "web2", WEB1) == "open"

    # An orderly reboot, a loss of power, and one while frozen: the data stays.
    lab.ssh("web2", "echo kept > /srv/file; sync")
    before = boots(lab, "web2")
    lab.reboot("web2")
    assert boots(lab, "web2") != before
    assert lab.ssh("web2", "cat /srv/file").stdout == "kept\n"
    lab.kill("web2")
    assert lab.status()[1] == HostStatus("web2", WEB2, "stopped", cut=True)
    lab.start("web2")
    assert lab.ssh("web2", "cat /srv/file").stdout == "kept\n"
    assert knock(lab, "web1", WEB2) == "open"
    lab.freeze("web2")
    assert lab.status()[1].state == "frozen"
    assert knock(lab, "web1", WEB2) == "open"  # its kernel still answers
    lab.kill("web2")
    lab.up(two)
    assert lab.ssh("web2", "cat /srv/file").stdout == "kept\n"

    # Down leaves nothing.
    lab.down()
    assert not lab.settings.directory.exists()
    assert not BRIDGE.exists()
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    assert BRIDGE.name not in tables.stdout
    assert lab.status() == ()


def test_a_power_loss_is_not_announced(lab: Lab) -> None:
    """A peer of a killed host gets no packet that closes its connection."""
    lab.up({"web1": WEB1, "web2": WEB2})
    script = (
        "import socket\n"
        f"peer = socket.create_connection(('{WEB2}', 22)); peer.recv(100)\n"
        "print('connected', flush=True); peer.settimeout(4)\n"
        "try: print(peer.recv(100))\n"
        "except TimeoutError: print('silent')\n"
    )
    command = [*lab.ssh_argv("web1"), f'python3 -c "{script}"']
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout
        assert peer.stdout.readline() == "connected\n"
        lab.kill("web2")
        assert peer.stdout.read() == "silent\n"


def test_what_a_crash_leaves_is_replaced_and_removed(lab: Lab) -> None:
    """A half-made host is made anew; a container without a directory is ended."""
    lab.up({"web1": WEB1, "web2": WEB2})
    (lab.settings.hosts / "web1" / "made").unlink()
    web1, web2 = boots(lab, "web1"), boots(lab, "web2")
    half_made = lab.settings.hosts / "web3"
    half_made.mkdir()
    lab.up({"web1": WEB1, "web2": WEB2, "web3": WEB3})
    assert boots(lab, "web1") != web1
    assert boots(lab, "web2") == web2
    assert lab.ssh("web3", "hostname").stdout == "web3\n"

    shutil.rmtree(lab.settings.hosts / "web2")
    assert Path("/proc", web2.strip()).exists()
    lab.down()
    assert not Path("/proc", web2.strip()).exists()
    assert not BRIDGE.exists()


def test_a_network_in_use_is_refused(lab: Lab) -> None:
    """The lab takes no network that the machine already has, and makes nothing."""
    subprocess.run(["ip", "link", "add", "tltest0", "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.113.91.129/25", "dev", "tltest0"], check=True)
        with pytest.raises(LabError) as refused:
            lab.up({"web1": WEB1})
    finally:
        subprocess.run(["ip", "link", "del", "tltest0"], check=True)
    assert str(refused.value) == (
        "The lab's network 10.113.91.0/24 is already used on this machine: "
        "interface tltest0 has 10.113.91.129/25; set TIERSTACK_LAB_SUBNET to a network "
        "that is free, e.g. 10.113.77.0/24"
    )
    assert not BRIDGE.exists()
    assert not lab.settings.directory.exists()


@pytest.mark.parametrize(
    ("hosts", "message"),
    [
        (
            {"web1": "10.1.1.1"},
            'web1: "10.1.1.1" is not an address in the lab\'s network 10.113.91.0/24; '
            "use `lab_host()` in the inventory, or set TIERSTACK_LAB_SUBNET",
        ),
        (
            {"web1": "10.113.91.1"},
            "web1: 10.113.91.1 already belongs to this machine; choose a free address",
        ),
        (
            {"web1": WEB1, "web2": WEB1},
            f"web2: {WEB1} already belongs to web1; choose a free address",
        ),
        ({"../web": WEB1}, '"../web" is not a host name; use letters, digits and hyphens'),
    ],
)
def test_hosts_that_cannot_be_made_are_refused(
    lab: Lab, hosts: dict[str, str], message: str
) -> None:
    """Wrong names and addresses are refused before anything is made."""
    with pytest.raises(LabError) as refused:
        lab.up(hosts)

    assert str(refused.value) == message
    assert not BRIDGE.exists()


def test_a_host_that_is_not_there(lab: Lab) -> None:
    """The answer to a wrong name is what there is, or how to make some."""
    with pytest.raises(LabError) as refused:
        lab.kill("web9")

    assert str(refused.value) == (
        'The lab has no host "web9"; its hosts: none; run `tierstack lab up INVENTORY` first'
    )
