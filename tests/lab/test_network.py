"""The lab's network never collides silently with one that the machine has."""

from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from tierstack.lab.network import Network, find_collision

SUBNET = IPv4Network("10.77.21.0/24")


def interface(name: str, local: str, prefixlen: int) -> dict[str, Any]:
    """One interface as `ip -j addr` prints it."""
    address = {"family": "inet", "local": local, "prefixlen": prefixlen}
    link_local = {"family": "inet6", "local": "fe80::1", "prefixlen": 64}
    return {"ifname": name, "addr_info": [address, link_local]}


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (interface("eth0", "192.0.2.2", 24), None),
        (interface("eth0", "10.77.22.1", 24), None),
        (interface("eth1", "10.77.21.9", 24), "interface eth1 has 10.77.21.9/24"),
        (interface("eth1", "10.1.2.3", 8), "interface eth1 has 10.1.2.3/8"),
        (interface("docker0", "10.77.21.129", 28), "interface docker0 has 10.77.21.129/28"),
        (interface("tierlab0", "10.77.21.1", 24), None),
    ],
)
def test_addresses_of_this_machine(found: dict[str, Any], sentence: str | None) -> None:
    """An interface inside, around or on the lab's network is named; the lab's own is not."""
    assert find_collision(SUBNET, "tierlab0", [found], []) == sentence


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"dst": "default", "dev": "eth0"}, None),
        ({"dst": "128.0.0.0/1", "dev": "tun0"}, None),
        ({"dst": "0.0.0.0/1", "dev": "tun0"}, None),
        ({"dst": "10.77.21.0/24", "dev": "tierlab0"}, None),
        ({"dst": "10.77.0.0/16", "dev": "wg0"}, "a route to 10.77.0.0/16 leads over wg0"),
        ({"dst": "10.77.21.7", "dev": "tun0"}, "a route to 10.77.21.7 leads over tun0"),
        (
            {"type": "blackhole", "dst": "10.0.0.0/8"},
            "a route to 10.0.0.0/8 leads over blackhole",
        ),
    ],
)
def test_routes_of_this_machine(found: dict[str, Any], sentence: str | None) -> None:
    """A route into the lab's network is named; a default route, also a VPN's pair, is none."""
    assert find_collision(SUBNET, "tierlab0", [], [found]) == sentence


def test_each_lab_has_names_of_its_own() -> None:
    """Two labs share neither bridge nor cable, and the names fit into the kernel's 15 bytes."""
    usual = Network(SUBNET)
    other = Network(IPv4Network("10.9.8.0/24"))

    assert (usual.bridge, other.bridge) == ("tierlab0", "tierlab0a090800")
    assert usual.cable(IPv4Address("10.77.21.11")) == "tl0a4d150b"
    assert len(other.bridge) <= 15
