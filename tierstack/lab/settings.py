"""Where a lab lives: its directory, its image cache and its network."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tierstack.lab.commands import LabError

SUBNET_VARIABLE = "TIERSTACK_LAB_SUBNET"
DIRECTORY_VARIABLE = "TIERSTACK_LAB_DIR"

# Unusual on purpose: 10.0.3.0/24, 192.168.122.0/24 and 172.17.0.0/16 belong to other tools.
DEFAULT_SUBNET = IPv4Network("10.77.21.0/24")
DEFAULT_DIRECTORY = Path("/var/lib/tierstack-lab")


@dataclass(frozen=True)
class Settings:
    """
    What tells one lab from another; two labs need two directories and two subnets.

    Attributes:
        directory: hosts, SSH key and known_hosts; gone after `down`.
        subnet: the network of the hosts; its first address is this machine.
        cache: the built image, shared by all labs and kept by `down`.
    """

    directory: Path = DEFAULT_DIRECTORY
    subnet: IPv4Network = DEFAULT_SUBNET
    cache: Path = Path("/var/cache/tierstack-lab")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """
        Read the two settings that a user may make.

        Args:
            environ: where TIERSTACK_LAB_SUBNET and TIERSTACK_LAB_DIR are looked up.

        Raises:
            LabError: the subnet is not an IPv4 network with room for hosts.
        """
        return cls(
            directory=Path(environ.get(DIRECTORY_VARIABLE, DEFAULT_DIRECTORY)).absolute(),
            subnet=parse_subnet(environ.get(SUBNET_VARIABLE, str(DEFAULT_SUBNET))),
        )

    @property
    def hosts(self) -> Path:
        """The LXC path: one directory a host, so that no other container is ever touched."""
        return self.directory / "hosts"

    @property
    def key(self) -> Path:
        """The private key that root of every host accepts."""
        return self.directory / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The SSH host keys, written by the lab as it makes them."""
        return self.directory / "known_hosts"


def parse_subnet(text: str) -> IPv4Network:
    """
    Read a network such as 10.77.21.0/24.

    Raises:
        LabError: it is not an IPv4 network, or has no room for hosts.
    """
    try:
        subnet = IPv4Network(text)
    except ValueError as error:
        raise LabError(
            f'{SUBNET_VARIABLE}: "{text}" is not an IPv4 network ({error}); '
            f'write e.g. "{DEFAULT_SUBNET}"'
        ) from None
    if not 16 <= subnet.prefixlen <= 28:
        raise LabError(
            f'{SUBNET_VARIABLE}: "{text}" is not of a useful size; '
            f'write a network from /16 to /28, e.g. "{DEFAULT_SUBNET}"'
        )
    return subnet


def lab_host(
    name: str, number: int, *, memory_mb: int = 512, **data: Any
) -> tuple[str, dict[str, Any]]:
    """
    A lab host as a line of a pyinfra inventory.

    Args:
        name: the host's name.
        number: the last part of its address; at least 2, and its own in the inventory.
        memory_mb: the memory that it counts as having, in MiB; lab hosts all see the machine's.
        data: further host data, as in any inventory.

    Returns:
        The name and the host's data, SSH settings included.

    Raises:
        LabError: the lab's network has no host of that number.
    """
    settings = Settings.from_environment()
    last = settings.subnet.num_addresses - 2
    if not 2 <= number <= last:
        raise LabError(
            f"{name}: {number} is not a host number of {settings.subnet}; "
            f"choose one from 2 to {last}"
        )
    address = str(settings.subnet.network_address + number)
    return name, {
        "address": address,
        "ssh_hostname": address,
        "ssh_user": "root",
        "ssh_key": str(settings.key),
        "ssh_known_hosts_file": str(settings.known_hosts),
        # The lab makes the host keys itself, so there is never an unknown one to accept.
        "ssh_strict_host_key_checking": "yes",
        "memory_mb": memory_mb,
        **data,
    }
