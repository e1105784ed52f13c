"""The cluster of docs/vagrant.md on containers: the page's own commands, in a fresh checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.needs import need
from tests.operator import ROOT, Deploy, assert_nothing_changed
from tests.prepare import VAGRANT, install
from tests.visitor import Door, steady_visitor

PAGE = ROOT / "docs" / "vagrant.md"

STORY = "vagrant up && pyinfra inventories/vagrant.py deploy.py"
STATUS = "tierstack status inventories/vagrant.py"
NEW_LINE = 'vagrant_host("web3", "192.168.56.13"),'
HOLD = "vagrant ssh web3 -c 'sudo touch /etc/tierstack/hold'"
REMOVE = "vagrant destroy -f web3"
DESTROY = "vagrant destroy -f"
BY_LXC = (
    "apt-get install -y --no-install-recommends vagrant vagrant-lxc",
    "make box",
    "vagrant up --provider=lxc && pyinfra inventories/vagrant.py deploy.py",
    "export VAGRANT_DEFAULT_PROVIDER=lxc",
)

#: What `git clone` would not bring.
_NOT_CLONED = shutil.ignore_patterns(
    ".git", ".venv", ".vagrant", "build", "*.egg-info", "__pycache__", ".*_cache", "*.secrets.toml*"
)

#: What the model says of the inventory that the working directory holds.
_ASK_MODEL = """
import json
from tierstack.inventory import load_cluster
cluster = load_cluster("inventories/vagrant.py")
print(json.dumps({
    host.name: {
        "address": host.address,
        "openings": [
            [opening.protocol, opening.port, opening.purpose, opening.peers is None]
            for opening in cluster.openings(host)
        ],
    }
    for host in cluster.hosts
}))
"""


@dataclass(frozen=True)
class Listener:
    """A socket that waits for connections or packets."""

    protocol: str
    address: str
    port: int


class Checkout:
    """
    A fresh checkout, and somebody who types there what the page says.

    Args:
        home: the directory in which it is made.
    """

    def __init__(self, home: Path) -> None:
        self.home = home / "my checkout"
        self.inventory = self.home / "inventories" / "vagrant.py"
        shutil.copytree(ROOT, self.home, ignore=_NOT_CLONED)
        # The installed programs are this checkout's; the code that they run is the copy's.
        tools = self.home / ".venv"
        tools.mkdir()
        (tools / "bin").symlink_to(Path(sys.executable).parent)
        (tools / "ready").touch()
        self.environment = {
            **os.environ,
            "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.home),
            # The box goes with the test, and nobody is asked for a newer Vagrant.
            "VAGRANT_HOME": str(home / "vagrant.d"),
            "VAGRANT_CHECKPOINT_DISABLE": "1",
        }
        # Beside a cluster that the developer may have.
        self.edit("192.168.56.", "192.168.61.")

    def edit(self, before: str, after: str) -> None:
        """Replace text everywhere in the inventory, as in an editor; it must be there."""
        text = self.inventory.read_text(encoding="utf-8")
        assert before in text, before
        self.inventory.write_text(text.replace(before, after), encoding="utf-8")

    def paste(self, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a shell; whatever it asks is answered with Enter."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.home,
            env={**self.environment, **environment},
            input="\n" * 9,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=900,
            check=False,
        )

    def type(self, command: str) -> str:
        """Run a command that must succeed, and return what it prints."""
        done = self.paste(command, VAGRANT_DEFAULT_PROVIDER="lxc")
        assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}{done.stderr[-6000:]}"
        return done.stdout

    def deploy_again(self) -> Deploy:
        """Deploy, with pyinfra's own count of what it changed."""
        done = self.paste("pyinfra inventories/vagrant.py deploy.py -y --json")
        return Deploy(done.returncode, done.stdout, done.stderr)

    def model(self) -> dict[str, Any]:
        """Return address and openings of each machine."""
        done = self.paste(f"{sys.executable} - <<'END'\n{_ASK_MODEL}\nEND")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def on(self, name: str, address: str, command: str) -> str:
        """Return what a command prints on a machine, as the user vagrant."""
        home = f".vagrant/machines/{name}/lxc"
        return self.type(
            f"ssh -F none -i {home}/private_key -o UserKnownHostsFile={home}/known_hosts"
            f" -o BatchMode=yes -o LogLevel=ERROR vagrant@{address} '{command}'"
        )

    @property
    def door(self) -> Door:
        """The site's front door."""
        return Door(self.model()["lb1"]["address"], "example.test")

    def left(self) -> list[str]:
        """Return what is on this machine of the cluster: containers, links, tables and files."""
        containers = [path.name for path in Path("/var/lib/lxc").glob("mycheckout_*")]
        links = _run("ip", "-o", "link") + _run("nft", "list", "tables")
        network = [line for line in links.splitlines() if "tierlabc0a83d00" in line]
        machines = self.home / ".vagrant" / "machines"
        return [*containers, *network, *(str(file) for file in machines.glob("*/*/*"))]

    def remove(self) -> None:
        """Take everything away, also what Vagrant does not know any more."""
        self.paste(DESTROY, VAGRANT_DEFAULT_PROVIDER="lxc")
        for path in Path("/var/lib/lxc").glob("mycheckout_*"):
            _run("lxc-destroy", "--force", "--name", path.name)
        for machine in (self.home / ".vagrant" / "machines").glob("*"):
            shutil.rmtree(machine)
        self.paste("tierstack vagrant clean inventories/vagrant.py")
        shutil.rmtree(self.home.parent)


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "containers need root"
    if not shutil.which("apt-get"):
        return "there is no apt-get to install Vagrant with"
    probe = subprocess.run(["unshare", "--mount", "--net", "true"], check=False)
    return "this machine forbids new namespaces" if probe.returncode != 0 else None


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A fresh checkout on a machine that has Vagrant and its providers for LXC and libvirt."""
    need(_why_not())
    install(VAGRANT)
    somebody = Checkout(tmp_path_factory.mktemp("vagrant"))
    try:
        yield somebody
    finally:
        somebody.remove()


@pytest.fixture(scope="module")
def cluster(checkout: Checkout) -> Checkout:
    """The checkout, its machines up and deployed to as the page says for LXC."""
    assert checkout.left() == []
    for command in BY_LXC:
        checkout.type(command)
    return checkout


def test_page_and_readme_say_what_is_tested() -> None:
    """The commands of this file are those of the documents, to the letter."""
    page = PAGE.read_text(encoding="utf-8")
    shown = [line[4:] for line in page.splitlines() if line.startswith("    ")]
    by_libvirt = "apt-get install -y libvirt-daemon-system qemu-system-x86 vagrant vagrant-libvirt"
    tested = {STORY, STATUS, NEW_LINE, HOLD, REMOVE, DESTROY, *BY_LXC}
    assert set(shown) == tested | {by_libvirt}
    assert f"\n    {STORY}\n" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("provider", ["virtualbox", "libvirt", "lxc"])
def test_vagrantfile_is_valid_for_each_provider(
    checkout: Checkout, provider: str, tmp_path: Path
) -> None:
    """Vagrant accepts every key of every provider's part, and finds the inventory's machines."""
    path = checkout.environment["PATH"]
    if provider == "virtualbox" and not shutil.which("VBoxManage"):
        # Debian has no VirtualBox. Vagrant looks for this program before it checks the settings.
        program = tmp_path / "VBoxManage"
        program.write_text("#!/bin/sh\necho 7.0.20r163906\n")
        program.chmod(0o755)
        path = f"{tmp_path}:{path}"
    done = checkout.paste("vagrant validate", VAGRANT_DEFAULT_PROVIDER=provider, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_inventory_stops_vagrant(checkout: Checkout) -> None:
    """A mistake in the inventory is told as everywhere, before a machine is made."""
    checkout.edit("192.168.61.12", "192.168.61.11")
    done = checkout.paste("vagrant validate")
    checkout.edit('"web2", "192.168.61.11"', '"web2", "192.168.61.12"')
    assert done.returncode != 0
    assert (
        "web[1].address: 192.168.61.11 already belongs to web1; write the address of this host"
        in done.stderr
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "192.168.60.12",
            "web2: 192.168.60.12 is not in lb1's network 192.168.61.0/24;"
            " write addresses that differ in their last number only",
        ),
        (
            "192.168.61.1",
            "web2: 192.168.61.1 belongs to this machine; write a higher last number",
        ),
    ],
)
def test_addresses_must_fit_one_network(checkout: Checkout, address: str, message: str) -> None:
    """Machines that could not reach each other, or would take this machine's address, are refused."""
    checkout.edit("192.168.61.12", address)
    done = checkout.paste("vagrant validate")
    checkout.edit(f'"web2", "{address}"', '"web2", "192.168.61.12"')
    assert done.returncode != 0
    assert message in done.stderr


def test_network_in_use_is_refused(checkout: Checkout) -> None:
    """No bridge is made over a network that this machine already has."""
    _run("ip", "link", "add", "tltaken", "type", "bridge")
    _run("ip", "addr", "add", "192.168.62.1/24", "dev", "tltaken")
    try:
        checkout.edit("192.168.61.", "192.168.62.")
        done = checkout.paste("tierstack vagrant prepare inventories/vagrant.py")
        checkout.edit("192.168.62.", "192.168.61.")
    finally:
        _run("ip", "link", "del", "tltaken")
    assert done.returncode != 0
    assert (
        "inventories/vagrant.py: the network 192.168.62.0/24 is already used on this machine:"
        " interface tltaken has 192.168.62.1/24;" in done.stderr
    )
    assert 'write addresses of a free one, e.g. "192.168.57.11"' in done.stderr


def test_first_deploy_serves_the_site(cluster: Checkout) -> None:
    """The site answers at the balancer, all is well by `status`, and a second run changes nothing."""
    answer = cluster.door.ask("/status.json")
    assert answer.status == 200, answer.text
    assert "media and static files" in cluster.type(STATUS)
    assert_nothing_changed(cluster.deploy_again())


def test_services_listen_on_their_cluster_address(cluster: Checkout) -> None:
    """Though each machine's own name points to 127.0.1.1 (vagrant#7263), no service binds there."""
    for name, machine in cluster.model().items():
        address = machine["address"]
        assert cluster.on(name, address, f"getent ahostsv4 {name}").startswith("127.0.1.1 ")
        found = _listeners(cluster.on(name, address, "ss -lntuH"))
        elsewhere = {each for each in found if each.address != address and not _loopback(each)}
        for protocol, port, purpose, to_anybody in machine["openings"]:
            # The front door and sshd may listen on every address, the data tiers on one only.
            wanted = {Listener(protocol, address, port)}
            if to_anybody:
                wildcards = {Listener(protocol, every, port) for every in ("0.0.0.0", "[::]", "*")}
                wanted |= wildcards
                elsewhere -= wildcards
            assert found & wanted, f"{name}: {purpose}, {protocol} {port}: {found}"
        assert {each for each in elsewhere if (each.protocol, each.port) != ("udp", 123)} == set()
        opened = {(protocol, port) for protocol, port, *_ in machine["openings"]}
        on_cluster = {(each.protocol, each.port) for each in found if each.address == address}
        assert on_cluster <= opened, f"{name} listens where no flow leads"


def test_node_comes_by_a_line_and_goes(cluster: Checkout) -> None:
    """A line, `vagrant up`, deploy: it serves. Held, destroyed, its line deleted: nobody notices."""
    line = 'vagrant_host("web2", "192.168.61.12"),'
    new = f"\n    {NEW_LINE.replace('192.168.56.', '192.168.61.')}"
    cluster.edit(line, line + new)
    cluster.type(STORY)
    assert _nodes(cluster.door) == {"web1", "web2", "web3"}
    assert_nothing_changed(cluster.deploy_again())

    with steady_visitor(cluster.door, "/status.json", per_second=5) as seen:
        cluster.type(HOLD)
        cluster.type(REMOVE)
        cluster.edit(line + new, line)
        done = cluster.deploy_again()
    assert done.status == 0, done.said
    assert seen.requests > 20
    assert seen.failed == []
    assert _nodes(cluster.door) == {"web1", "web2"}


def test_machine_starts_again(cluster: Checkout) -> None:
    """After `vagrant reload` a machine is what it was, and the next run has nothing to change."""
    cluster.type("vagrant reload data1")
    assert_nothing_changed(cluster.deploy_again())
    assert cluster.door.ask("/status.json").status == 200


def test_destroy_leaves_nothing(cluster: Checkout) -> None:
    """No container, bridge, firewall table or file of a machine is there after `vagrant destroy`."""
    assert len([each for each in cluster.left() if each.startswith("mycheckout_")]) == 4
    cluster.type(DESTROY)
    assert cluster.left() == []


def _listeners(text: str) -> set[Listener]:
    """Read what `ss -lntuH` prints."""
    found = set()
    for line in text.splitlines():
        protocol, _state, _received, _sent, local, *_ = line.split()
        address, _, port = local.rpartition(":")
        found.add(Listener(protocol, address.partition("%")[0], int(port)))
    return found


def _loopback(listener: Listener) -> bool:
    return listener.address == "[::1]" or listener.address.startswith("127.0.0.")


def _nodes(door: Door) -> set[str]:
    """Return the web nodes that answer a few requests."""
    return {json.loads(door.ask("/status.json").text)["node"] for _ in range(12)}
