"""The lab on real virtual machines: a kernel of their own, and the same life as containers."""

import platform
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from roles.base import PACKAGES
from tests.lab.hosts import knock, why_no_hosts
from tests.needs import need
from tierstack.lab import HostStatus, Lab, LabError, Settings
from tierstack.lab.vm_image import PREINSTALLED

# A lab of its own, beside one that the developer may have; only the images are shared.
SUBNET = IPv4Network("10.113.92.0/24")
WEB1, MEDIA1, DB1 = "10.113.92.11", "10.113.92.12", "10.113.92.13"
HOSTS = {"web1": WEB1, "media1": MEDIA1, "db1": DB1}
INTERFACES = Path("/sys/class/net")


def why_not() -> str | None:
    """Why this machine cannot run virtual machines, or None."""
    if platform.machine() != "x86_64":
        return "User-Mode Linux needs an x86_64 machine"
    if not Path("/dev/net/tun").exists():
        return "this machine has no /dev/net/tun"
    return why_no_hosts()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A lab that does not exist yet, and is removed afterwards."""
    need(why_not())
    lab = Lab(Settings(directory=tmp_path / "lab", subnet=SUBNET))
    yield lab
    lab.down()


def ask(lab: Lab, host: str, command: str) -> str:
    """What a shell command prints on a host; it must succeed."""
    done = lab.ssh(host, command, timeout_s=120)
    assert done.returncode == 0, f"{host}: {command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def boot(lab: Lab, host: str) -> str:
    """Identify a virtual machine's present boot."""
    return ask(lab, host, "cat /proc/sys/kernel/random/boot_id")


def programs_from(directory: Path) -> list[str]:
    """The processes that run a program in that directory."""
    links = (process / "exe" for process in Path("/proc").glob("[0-9]*"))
    found = subprocess.run(
        ["readlink", *map(str, links)], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if line.startswith(f"{directory}/")]


FIREWALL = """
table inet probe {
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
    iif lo accept
    ip protocol icmp accept
    meta l4proto ipv6-icmp accept
    ip saddr { %s } tcp dport 2049 accept comment "NFS"
    tcp dport 22 accept
    limit rate 5/second reject with icmpx type admin-prohibited
  }
}
"""


def test_the_life_of_virtual_machines(lab: Lab) -> None:
    """They do what containers cannot, fail like real hosts, come back with their data, and go."""
    lab.up(HOSTS, {"web1": 512, "media1": 256})
    assert lab.status() == (
        HostStatus("db1", DB1, "running", cut=False, kind="container"),
        HostStatus("media1", MEDIA1, "running", cut=False, kind="virtual machine"),
        HostStatus("web1", WEB1, "running", cut=False, kind="virtual machine"),
    )

    # A host as a deploy expects it: its name, its memory, and nothing that answers but SSH.
    assert ask(lab, "web1", "hostname && systemctl is-system-running") == "web1\nrunning"
    assert ask(lab, "web1", "getent ahostsv4 web1").startswith("127.0.1.1 ")
    memory_kb = {
        host: int(ask(lab, host, "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo"))
        for host in ("web1", "media1")
    }
    assert 450 < memory_kb["web1"] / 1024 <= 512
    assert 200 < memory_kb["media1"] / 1024 <= 256
    assert ask(lab, "web1", "ss -Hltun | awk '{print $5}'").split() == ["0.0.0.0:22", "[::]:22"]

    # All reach each other, whatever kind they are.
    assert knock(lab, "web1", MEDIA1) == "open"
    assert knock(lab, "web1", DB1) == "open"
    assert knock(lab, "db1", WEB1) == "open"

    # What they are made for: kernel settings, a firewall and NFS of their own.
    assert ask(lab, "web1", "sysctl -n -w vm.swappiness=7") == "7"
    assert ask(lab, "media1", "systemd-detect-virt --vm") == "uml"
    rules = FIREWALL % WEB1
    loaded = lab.ssh("media1", "nft -f - && nft list table inet probe", text_in=rules)
    assert 'tcp dport 2049 accept comment "NFS"' in loaded.stdout, loaded.stderr
    ask(
        lab,
        "media1",
        "mkdir -p /srv/share /etc/exports.d && echo kept > /srv/share/file && "
        f"echo '/srv/share {WEB1}(rw,no_subtree_check)' > /etc/exports.d/share.exports && "
        "systemctl enable --now nfs-server",
    )
    mount = f"mount -t nfs4 -o vers=4.2,softerr,timeo=10,retrans=2 {MEDIA1}:/srv/share /mnt"
    assert ask(lab, "web1", f"{mount} && cat /mnt/file && umount /mnt") == "kept"
    assert knock(lab, "db1", MEDIA1) == "open"
    refused = f"timeout 10 bash -c '</dev/tcp/{MEDIA1}/2049'"
    assert lab.ssh("db1", refused).returncode == 1

    # Again: nothing changes. A host stays what it is.
    first = boot(lab, "web1")
    lab.up(HOSTS)
    assert boot(lab, "web1") == first
    with pytest.raises(LabError) as error:
        lab.up(HOSTS, {"db1": 512})
    assert str(error.value) == (
        "db1: the lab has it as a container, and a host stays what it is; "
        "run `tierstack lab down` first, or let it be one"
    )

    # A cut is silence in both directions, and there is no other way in.
    lab.cut("media1")
    assert knock(lab, "web1", MEDIA1) == "silent"
    assert knock(lab, "db1", MEDIA1) == "silent"
    with pytest.raises(LabError) as error:
        lab.shell("media1", ["true"])
    assert str(error.value) == (
        "media1 is a virtual machine and cut off, its network is the only way in; "
        "run `tierstack lab heal media1` first"
    )
    lab.heal("media1")
    assert knock(lab, "web1", MEDIA1) == "open"
    assert lab.shell("media1", ["sh", "-c", "exit 7"]) == 7

    # An orderly reboot: what is enabled comes back, and the export with it.
    before = boot(lab, "media1")
    lab.reboot("media1")
    assert boot(lab, "media1") != before
    assert ask(lab, "web1", f"{mount} && cat /mnt/file") == "kept"

    # A hang, a loss of power in the middle of it, and power again: the disk is as it was.
    ask(lab, "web1", "umount /mnt && echo kept > /srv/file && sync /srv/file")
    lab.freeze("web1")
    assert lab.status()[2].state == "frozen"
    assert knock(lab, "db1", WEB1) == "silent"
    lab.thaw("web1")
    assert knock(lab, "db1", WEB1) == "open"
    lab.freeze("web1")
    lab.kill("web1")
    assert lab.status()[2] == HostStatus("web1", WEB1, "stopped", cut=True, kind="virtual machine")
    assert programs_from(lab.settings.hosts / "web1") == []
    lab.start("web1")
    assert ask(lab, "web1", "cat /srv/file && hostname") == "kept\nweb1"
    lab.kill("media1")
    lab.up(HOSTS)
    assert ask(lab, "media1", "cat /srv/share/file") == "kept"

    # Down leaves nothing, not even of a host whose directory somebody has removed.
    shutil.rmtree(lab.settings.hosts / "web1")
    assert programs_from(lab.settings.hosts / "web1") != []
    cables = [INTERFACES / f"tl0a715c{number:02x}" for number in (11, 12, 13)]
    assert [cable.exists() for cable in cables] == [True, True, True]
    lab.down()
    assert [cable.exists() for cable in cables] == [False, False, False]
    assert programs_from(lab.settings.hosts) == []
    assert not lab.settings.directory.exists()
    assert not (INTERFACES / "tierlab0a715c00").exists()
    assert lab.status() == ()


def test_a_virtual_machine_that_is_no_host(lab: Lab) -> None:
    """A wrong name is answered with the right ones, and nothing is made."""
    with pytest.raises(LabError) as refused:
        lab.up(HOSTS, {"web9": 512})

    assert str(refused.value) == (
        '"web9" is to be a virtual machine, but is none of the hosts: db1, media1, web1; '
        "choose among these"
    )
    assert not lab.settings.directory.exists()


def test_packages_of_web_and_media_hosts_are_there() -> None:
    """No role has to install inside what takes minutes there."""
    assert {*PACKAGES["web"], *PACKAGES["media"]} - set(PREINSTALLED) == set()
