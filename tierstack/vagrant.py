"""
Machines made by Vagrant: what their inventory says of them, and what the Vagrantfile asks.

    web = [
        vagrant_host("web1", "192.168.56.11"),
    ]

The Vagrantfile reads the inventory with `tierstack vagrant hosts`, so there is no second list.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import click

from tierstack.lab import LabError, kernel_has_nfs
from tierstack.lab.cli import lab_errors
from tierstack.lab.machine import load_nfs, raise_inotify_limit
from tierstack.lab.network import Network
from tierstack.model import Cluster, TierstackError

#: The Vagrantfile lies in the checkout's root, and there Vagrant keeps what it knows.
_VAGRANTFILE = Path(__file__).resolve().parent.parent / "Vagrantfile"
_MACHINES = _VAGRANTFILE.with_name(".vagrant") / "machines"


def vagrant_host(
    name: str, address: str, *, memory_mb: int = 512, **data: Any
) -> tuple[str, dict[str, Any]]:
    """
    A machine of Vagrant's as a line of a pyinfra inventory.

    Args:
        name: the machine's name.
        address: its address in a private network; the first one of its /24 is this machine's.
        memory_mb: the memory that it gets, in MiB.
        data: further host data, as in any inventory.

    Returns:
        The name and the host's data, SSH settings included.
    """
    home = _home(name)
    key = home / "private_key"
    return name, {
        "address": address,
        "ssh_hostname": address,
        "ssh_user": "vagrant",
        # Vagrant makes it at the machine's first start, and pyinfra fails over one that is not there.
        **({"ssh_key": str(key)} if key.exists() else {}),
        # Written by the Vagrantfile; `vagrant destroy` empties the directory.
        "ssh_known_hosts_file": str(home / "known_hosts"),
        "ssh_strict_host_key_checking": "yes",
        "_sudo": True,
        "memory_mb": memory_mb,
        **data,
    }


def media_share() -> str:
    """
    How MEDIA_ROOT reaches the web machines: by "nfs", or by "sshfs" where that cannot be.

    Virtual machines have Debian's kernel, which has NFS; LXC's share this machine's.
    """
    by_lxc = any(_MACHINES.glob("*/lxc/id"))
    return "sshfs" if by_lxc and not kernel_has_nfs() else "nfs"


def _home(name: str) -> Path:
    """Vagrant's directory of a machine: that of the provider by which it was made."""
    made = sorted(_MACHINES.glob(f"{name}/*/id"))
    return made[0].parent if made else _MACHINES / name


@click.group()
def vagrant() -> None:
    """
    What the Vagrantfile asks and does.

    Type `vagrant up` instead.
    """


_INVENTORY = click.argument("inventory", type=click.Path(path_type=Path))


@vagrant.command()
@_INVENTORY
def hosts(inventory: Path) -> None:
    """Print the machines of INVENTORY as JSON: names, addresses, memory in MiB, LXC's settings."""
    cluster = _load(inventory)
    with lab_errors():
        network = _network(cluster)
    machines = [
        {
            "name": host.name,
            "address": host.address,
            "memory_mb": host.memory_mb,
            "lxc": _lxc_settings(network, IPv4Address(host.address)),
        }
        for host in cluster.hosts
    ]
    click.echo(json.dumps(machines))


@vagrant.command()
@_INVENTORY
def prepare(inventory: Path) -> None:
    """Make what LXC's machines of INVENTORY need on this machine: a bridge that leads outside."""
    with lab_errors(), _one_at_a_time():
        network = _network(_load(inventory))
        taken = network.taken_by()
        if taken:
            raise LabError(
                f"{inventory}: the network {network.subnet} is already used on this machine: "
                f'{taken}; write addresses of a free one, e.g. "192.168.57.11"'
            )
        load_nfs()
        raise_inotify_limit()
        network.up()


@vagrant.command()
@_INVENTORY
def clean(inventory: Path) -> None:
    """Remove what `prepare` made, when the last machine is gone."""
    with lab_errors(), _one_at_a_time():
        if not any(_MACHINES.glob("*/lxc/id")):
            _network(_load(inventory)).down()


def _load(inventory: Path) -> Cluster:
    from tierstack.inventory import load_cluster  # pyinfra, which inventories load before this

    try:
        return load_cluster(inventory)
    except TierstackError as error:
        raise click.ClickException(str(error)) from None


def _network(cluster: Cluster) -> Network:
    """The /24 of the machines' addresses; its first address is this machine's."""
    first = cluster.hosts[0]
    network = Network(IPv4Network(f"{first.address}/24", strict=False))
    for host in cluster.hosts:
        if IPv4Address(host.address) not in network.subnet:
            raise LabError(
                f"{host.name}: {host.address} is not in {first.name}'s network {network.subnet}; "
                "write addresses that differ in their last number only"
            )
        if IPv4Address(host.address) == network.gateway:
            raise LabError(
                f"{host.name}: {host.address} belongs to this machine; write a higher last number"
            )
    return network


def _lxc_settings(network: Network, address: IPv4Address) -> Sequence[tuple[str, str]]:
    """Keys and values in the order in which LXC shall read them."""
    subnet = network.subnet
    return [
        ("net.0.link", network.bridge),
        # LXC would choose another at each start, and peers that know the old one wait for it.
        ("net.0.hwaddr", network.mac(address)),
        # Forget the address of the last start: run by root, vagrant-lxc 1.4.3 does not remove its
        # old lines from LXC's file, and LXC refuses to set an address twice.
        ("net.0.ipv4.address", ""),
        ("net.0.ipv4.address", f"{address}/{subnet.prefixlen} {subnet.broadcast_address}"),
        ("net.0.ipv4.gateway", str(network.gateway)),
    ]


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Vagrant starts its machines in parallel, and each asks for the bridge."""
    with _VAGRANTFILE.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
