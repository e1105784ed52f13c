"""The hosts of a lab on this machine's disk: which there are, and which may be made."""

import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tierstack.lab import container, virtual_machine
from tierstack.lab.commands import LabError
from tierstack.lab.container import Container
from tierstack.lab.host import Host
from tierstack.lab.network import Network
from tierstack.lab.settings import SUBNET_VARIABLE, Settings
from tierstack.lab.virtual_machine import VirtualMachine


@dataclass(frozen=True)
class Hosts:
    """
    The hosts of one lab.

    Attributes:
        settings: the lab's.
        network: the lab's.
    """

    settings: Settings
    network: Network

    @property
    def names(self) -> list[str]:
        """Who has a directory, half-made ones too, in order."""
        directory = self.settings.hosts
        if not directory.is_dir():
            return []
        return sorted(entry.name for entry in directory.iterdir() if entry.is_dir())

    def all(self) -> list[Host]:
        """Each host that has a directory."""
        return [self.get(name) for name in self.names]

    def get(self, name: str) -> Host:
        """The host of that name as the kind that it was made; a container if it is not there."""
        return (
            self.virtual_machine(name) if self.virtual_machine(name).begun else self.container(name)
        )

    def container(self, name: str) -> Container:
        """The container of that name, whether it exists or not."""
        return Container(name, self.settings, self.network)

    def virtual_machine(self, name: str) -> VirtualMachine:
        """The virtual machine of that name, whether it exists or not."""
        return VirtualMachine(name, self.settings, self.network)

    def refuse(self, wanted: Mapping[str, str], vms: Mapping[str, int]) -> None:
        """
        Refuse hosts that cannot be made, before anything is touched.

        Args:
            wanted: names with their addresses.
            vms: which of them shall be virtual machines.

        Raises:
            LabError: the first that cannot; the text says why and what to do.
        """
        subnet = self.settings.subnet
        if self.network.subnet != subnet:
            raise LabError(
                f"The lab runs on {self.network.subnet}, not on {subnet}; "
                f"set {SUBNET_VARIABLE}={self.network.subnet}, or run `tierstack lab down` first"
            )
        if vms and platform.machine() != "x86_64":
            raise LabError(
                f"Virtual machines need an x86_64 machine, this is {platform.machine()}; "
                "make all hosts containers"
            )
        for name in vms:
            if name not in wanted:
                raise LabError(
                    f'"{name}" is to be a virtual machine, but is none of the hosts: '
                    f"{', '.join(sorted(wanted))}; choose among these"
                )
        owners = {str(self.network.gateway): "this machine"}
        for host in self.all():
            if host.made:
                address = str(host.address)
                if wanted.get(host.name, address) != address:
                    raise LabError(
                        f"{host.name}: the lab has it at {address}, not at {wanted[host.name]}; "
                        "run `tierstack lab down` first, or give it its address back"
                    )
                if host.name in vms and host.kind != VirtualMachine.kind:
                    raise LabError(
                        f"{host.name}: the lab has it as a {host.kind}, and a host stays what it "
                        "is; run `tierstack lab down` first, or let it be one"
                    )
                owners[address] = host.name
        for name, text in wanted.items():
            if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,61}[A-Za-z0-9])?", name):
                raise LabError(f'"{name}" is not a host name; use letters, digits and hyphens')
            if text not in map(str, subnet.hosts()):
                raise LabError(
                    f'{name}: "{text}" is not an address in the lab\'s network {subnet}; '
                    f"use `lab_host()` in the inventory, or set {SUBNET_VARIABLE}"
                )
            if owners.setdefault(text, name) != name:
                raise LabError(
                    f"{name}: {text} already belongs to {owners[text]}; choose a free address"
                )

    def write_known_hosts(self) -> None:
        """Write the SSH host keys of all hosts to the lab's known_hosts."""
        lines = [f"{host.address} {host.host_key}\n" for host in self.all() if host.host_key]
        # Replaced, not rewritten: a deploy may be reading it.
        new = self.settings.known_hosts.with_suffix(".new")
        new.write_text("".join(lines))
        new.replace(self.settings.known_hosts)

    def kill_orphans(self) -> None:
        """End what runs of hosts of this lab whose directory is gone."""
        for kind in (container, virtual_machine):
            kind.kill_orphans(self.settings.hosts, self.names)
