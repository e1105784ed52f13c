"""The lab's network: a bridge of its own, NAT to the outside, and cuts between hosts."""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tierstack.lab.commands import LabError, run
from tierstack.lab.settings import DEFAULT_SUBNET, SUBNET_VARIABLE


def find_collision(
    subnet: IPv4Network,
    bridge: str,
    interfaces: Iterable[Mapping[str, Any]],
    routes: Iterable[Mapping[str, Any]],
) -> str | None:
    """
    What on this machine already uses a part of the lab's network.

    Args:
        subnet: the lab's network.
        bridge: the lab's own interface, which does not count.
        interfaces: what `ip -j addr` prints.
        routes: what `ip -j -4 route show table all` prints.

    Returns:
        A sentence naming the interface and the network, or None.
    """
    for interface in interfaces:
        name = interface.get("ifname", "")
        for entry in interface.get("addr_info", []):
            if entry.get("family") != "inet" or name == bridge:
                continue
            network = IPv4Network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
            if network.overlaps(subnet):
                return f"interface {name} has {entry['local']}/{entry['prefixlen']}"
    for route in routes:
        destination = route.get("dst", "default")
        if destination == "default" or route.get("dev") == bridge:
            continue
        network = IPv4Network(destination)
        # /0 and the /1 pair of a VPN mean "everything else": our more specific route wins.
        if network.prefixlen > 1 and network.overlaps(subnet):
            via = route.get("dev") or route.get("type", "no interface")
            return f"a route to {destination} leads over {via}"
    return None


@dataclass(frozen=True)
class Network:
    """
    The network of one lab. All of it carries the bridge's name and goes with it.

    Attributes:
        subnet: the network of the hosts; its first address is this machine.
    """

    subnet: IPv4Network

    @property
    def bridge(self) -> str:
        """The bridge's name, also that of the two nftables tables."""
        if self.subnet == DEFAULT_SUBNET:
            return "tierlab0"
        return f"tierlab{int(self.subnet.network_address):08x}"

    @property
    def gateway(self) -> IPv4Address:
        """This machine's address in the lab."""
        return self.subnet.network_address + 1

    def taken_by(self) -> str | None:
        """What on this machine already uses a part of the network: a sentence, or None."""
        interfaces = json.loads(run(["ip", "-j", "addr"]).stdout)
        routes = json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"]).stdout)
        return find_collision(self.subnet, self.bridge, interfaces, routes)

    def refuse_collision(self) -> None:
        """
        Refuse a network that this machine already uses a part of.

        Raises:
            LabError: it does; the text names the interface and the network.
        """
        taken = self.taken_by()
        if taken:
            raise LabError(
                f"The lab's network {self.subnet} is already used on this machine: {taken}; "
                f"set {SUBNET_VARIABLE} to a network that is free, e.g. 10.113.77.0/24"
            )

    def exists(self) -> bool:
        """Whether the bridge is there; it goes when this machine restarts."""
        return Path("/sys/class/net", self.bridge).exists()

    def up(self) -> None:
        """Make the bridge, its address and the NAT, where they are missing."""
        if not self.exists():
            # An address of its own: a bridge without one takes the lowest of its ports', and
            # hosts that know the gateway by the old one stall whenever a host comes or goes.
            mac = self.mac(self.gateway)
            run(["ip", "link", "add", self.bridge, "address", mac, "type", "bridge"])
        prefix = self.subnet.prefixlen
        run(["ip", "addr", "replace", f"{self.gateway}/{prefix}", "dev", self.bridge])
        run(["ip", "link", "set", self.bridge, "mtu", str(outer_mtu()), "up"])
        # A table that exists stays: it holds the cuts of hosts that run.
        if run(["nft", "list", "table", "bridge", self.bridge], check=False).returncode != 0:
            run(["nft", "-f", "-"], text_in=self._nft_tables())
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self._let_iptables_forward()

    def down(self) -> None:
        """Remove whatever of the network exists."""
        if shutil.which("iptables"):
            for rule in self._forward_rules():
                while run(["iptables", "-D", "FORWARD", *rule], check=False).returncode == 0:
                    pass
        if shutil.which("nft"):
            run(["nft", "delete", "table", "bridge", self.bridge], check=False)
            run(["nft", "delete", "table", "ip", self.bridge], check=False)
        if shutil.which("ip"):
            # A container's cable goes with it, a virtual machine's only with its directory.
            for port in Path("/sys/class/net", self.bridge, "brif").glob("*"):
                run(["ip", "link", "del", port.name], check=False)
            run(["ip", "link", "del", self.bridge], check=False)

    def cable(self, address: IPv4Address) -> str:
        """The name, on this machine, of the interface that leads to the host of that address."""
        return f"tl{int(address):08x}"

    def add_tap(self, address: IPv4Address) -> str:
        """
        Connect a virtual machine; LXC does the same itself for a container.

        Args:
            address: the host's.

        Returns:
            The interface that the virtual machine opens.
        """
        name = self.cable(address)
        self.remove_cable(address)
        run(["ip", "tuntap", "add", "dev", name, "mode", "tap"])
        run(["ip", "link", "set", name, "master", self.bridge, "mtu", str(outer_mtu()), "up"])
        return name

    def remove_cable(self, address: IPv4Address) -> None:
        """Remove the interface that leads to the host of that address, if it is there."""
        run(["ip", "link", "del", self.cable(address)], check=False)

    def mac(self, address: IPv4Address) -> str:
        """The link address that goes with an address, the same after each start."""
        return "02:54:" + address.packed.hex(":")

    def cut(self, address: IPv4Address) -> None:
        """Drop from now on, silently, all that the host of that address sends or is sent."""
        port = self.cable(address)
        run(
            ["nft", "add", "element", "bridge", self.bridge, "cut_arp", f"{{ {port} . {address} }}"]
        )
        run(["nft", "add", "element", "bridge", self.bridge, "cut", f"{{ {port} }}"])

    def heal(self, address: IPv4Address) -> None:
        """Undo `cut`; nothing happens to a host that is not cut."""
        port = self.cable(address)
        for name, element in (("cut", port), ("cut_arp", f"{port} . {address}")):
            # `nft destroy` would do this alone, but is younger than Debian 12's nft.
            run(
                ["nft", "delete", "element", "bridge", self.bridge, name, f"{{ {element} }}"],
                check=False,
            )

    def is_cut(self, address: IPv4Address) -> bool:
        """Whether the host of that address is cut off."""
        listed = run(["nft", "-j", "list", "set", "bridge", self.bridge, "cut"], check=False)
        return f'"{self.cable(address)}"' in listed.stdout

    def _nft_tables(self) -> str:
        # ARP about a cut host's own address still passes: the kernel of a peer would otherwise
        # report "no route to host" within seconds, and the nasty failure is the silent one.
        # ARP about any other address does not: a cut balancer must not announce a shared
        # address to hosts that it cannot serve.
        return f"""
table bridge {self.bridge} {{
  set cut {{ type ifname; }}
  set cut_arp {{ type ifname . ipv4_addr; }}
  chain forward {{
    type filter hook forward priority filter;
    iifname . arp saddr ip @cut_arp accept
    oifname . arp daddr ip @cut_arp accept
    iifname @cut drop
    oifname @cut drop
  }}
  chain input {{
    type filter hook input priority filter;
    iifname . arp saddr ip @cut_arp accept
    iifname @cut drop
  }}
  chain output {{
    type filter hook output priority filter;
    oifname . arp daddr ip @cut_arp accept
    oifname @cut drop
  }}
}}
table ip {self.bridge} {{
  chain nat {{
    type nat hook postrouting priority srcnat;
    ip saddr {self.subnet} ip daddr != {self.subnet} masquerade
  }}
}}
"""

    def _let_iptables_forward(self) -> None:
        # Docker and some firewalls set the policy of FORWARD to DROP, for bridged traffic too;
        # an accept in a table of ours cannot overrule that, only a rule in theirs.
        if not shutil.which("iptables"):
            return
        if run(["iptables", "-S", "FORWARD"], check=False).stdout.strip() in (
            "",
            "-P FORWARD ACCEPT",
        ):
            return
        for rule in self._forward_rules():
            if run(["iptables", "-C", "FORWARD", *rule], check=False).returncode != 0:
                run(["iptables", "-I", "FORWARD", *rule])

    def _forward_rules(self) -> tuple[list[str], list[str]]:
        return ["-i", self.bridge, "-j", "ACCEPT"], ["-o", self.bridge, "-j", "ACCEPT"]


def outer_mtu() -> int:
    """
    The largest packet, in bytes, that this machine's way out takes.

    The hosts get the same, or their downloads hang behind a tunnel that drops larger ones.
    """
    for route in json.loads(run(["ip", "-j", "-4", "route", "show", "default"]).stdout):
        mtu = Path("/sys/class/net", route.get("dev", ""), "mtu")
        if mtu.is_file():
            return min(1500, int(mtu.read_text()))
    return 1500
