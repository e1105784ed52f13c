"""One host of a lab, whichever way it is made: what a deploy sees of both kinds alike."""

import shutil
import subprocess
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar

from tierstack.lab import image, machine
from tierstack.lab.commands import LabError, remove_tree, run
from tierstack.lab.network import Network
from tierstack.lab.settings import Settings

# Hosts are up in seconds; a busy CI machine may take many times that.
DEADLINE_S = 180.0


@dataclass(frozen=True)
class Host(ABC):
    """
    A host of that name in that lab, whether it exists or not.

    Attributes:
        name: the host's name.
        settings: the lab's.
        network: the lab's.
        kind: what it is, in a user's words.
    """

    name: str
    settings: Settings
    network: Network
    kind: ClassVar[str]

    @property
    def home(self) -> Path:
        """All there is of the host: how it is started, its logs, and what differs from the image."""
        return self.settings.hosts / self.name

    @property
    def made(self) -> bool:
        """Whether it has booted once; a crash of `up` leaves a host that has not."""
        return (self.home / "made").exists()

    @property
    def address(self) -> IPv4Address:
        """Its address, as it was given when the host was made."""
        return IPv4Address((self.home / "address").read_text())

    @property
    def host_key(self) -> str | None:
        """Its SSH host key, as known_hosts has it; None in a half-made host."""
        public = self.home / "delta/etc/ssh/ssh_host_ed25519_key.pub"
        return " ".join(public.read_text().split()[:2]) if public.exists() else None

    @property
    @abstractmethod
    def state(self) -> str:
        """Whether it is "running", "stopped" or "frozen"."""

    # ------------------------------------------------------------------ life

    @abstractmethod
    def start(self) -> None:
        """
        Give it power; returns before it has booted.

        Raises:
            LabError: it did not start; the text ends with the log.
        """

    @abstractmethod
    def stop(self) -> None:
        """Take its power away, also from a frozen one; returns when it is gone."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop it where it is."""

    @abstractmethod
    def thaw(self) -> None:
        """Let a frozen one go on."""

    @abstractmethod
    def reboot(self) -> None:
        """Reboot it in order, from inside; returns when it boots again."""

    @abstractmethod
    def shell_argv(self, command: Iterable[str]) -> list[str]:
        """
        The command line that runs a program in it as root, on this terminal.

        Raises:
            LabError: there is no way in.
        """

    def remove(self) -> None:
        """Remove it and all that is on it, whatever state a crash left it in."""
        if self.state != "stopped":
            self.stop()
        if (self.home / "address").exists():
            self.network.heal(self.address)  # or the next host of that address is born cut
            self.network.remove_cable(self.address)
        remove_tree(self.home)

    def wait_until_booted(self) -> None:
        """
        Wait until it answers over SSH and its systemd has nothing left to start.

        Raises:
            LabError: it stopped, or did not come up in time.
        """
        said = "nothing"

        def booted() -> bool:
            nonlocal said
            if self.state == "stopped":
                raise LabError(f"{self.name} stopped while booting; read {self.home}/console.log")
            command = [*self.ssh_argv(), "systemctl is-system-running"]
            try:
                answer = run(command, check=False, timeout_s=10)
            except subprocess.TimeoutExpired:
                return False
            said = answer.stdout.strip() or answer.stderr.strip() or said
            # Degraded is booted too: which unit failed is for whoever installed it to see.
            return said in ("running", "degraded")

        wait_for(
            booted,
            f"{self.name} did not finish booting",
            lambda: f'; it last said "{said}", look with `tierstack lab shell {self.name}`',
        )

    def ssh_argv(self) -> list[str]:
        """The ssh command line that reaches its root; a command may be appended."""
        settings = self.settings
        return [
            "ssh", "-F", "none", "-i", str(settings.key),
            "-o", "IdentitiesOnly=yes",
            "-o", "BatchMode=yes",
            "-o", "LogLevel=ERROR",
            "-o", "ConnectTimeout=10",
            "-o", "StrictHostKeyChecking=yes",
            "-o", f"UserKnownHostsFile={settings.known_hosts}",
            "-o", "GlobalKnownHostsFile=/dev/null",
            f"root@{self.address}",
        ]  # fmt: skip

    # ------------------------------------------------------------------ making

    def write_delta(self, address: IPv4Address) -> Path:
        """
        Write what differs from the image: its name, its keys, and this machine's way out.

        Args:
            address: its address in the lab.

        Returns:
            The directory that holds it, laid out like the host's root.
        """
        delta = self.home / "delta"
        etc = delta / "etc"
        ssh = delta / "root/.ssh"
        (etc / "ssh").mkdir(parents=True)
        ssh.mkdir(parents=True)
        for directory in (self.home, delta / "root", ssh):
            directory.chmod(0o700)
        (self.home / "address").write_text(str(address))
        (etc / "hostname").write_text(f"{self.name}\n")
        # The own name at 127.0.1.1, as Debian's installer writes it: software that listens on
        # or announces "its name" must be seen to go wrong here, not in production.
        (etc / "hosts").write_text(
            f"127.0.0.1\tlocalhost\n127.0.1.1\t{self.name}\n"
            "::1\tlocalhost ip6-localhost ip6-loopback\n"
        )
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (etc / "resolv.conf").write_text(machine.resolv_conf())
        (etc / "pip.conf").write_text(machine.pip_configuration(image.WHEELS))
        (etc / "apt/apt.conf.d").mkdir(parents=True)
        (etc / "apt/apt.conf.d/91proxies").write_text(machine.apt_proxies())
        make_key(etc / "ssh/ssh_host_ed25519_key", self.name)
        shutil.copyfile(self.settings.key.with_suffix(".pub"), ssh / "authorized_keys")
        return delta


def processes() -> Iterable[Path]:
    """The directories in /proc of this machine's processes."""
    return Path("/proc").glob("[0-9]*")


def make_key(file: Path, comment: str) -> None:
    """Make an SSH key pair without a passphrase."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(file)])


def wait_for(
    condition: Callable[[], bool], failure: str, more: Callable[[], str] = lambda: ""
) -> None:
    """
    Wait until a condition holds.

    Args:
        condition: asked ten times a second.
        failure: what to say when it never held.
        more: what to add to that, as known by then.

    Raises:
        LabError: it did not hold within DEADLINE_S.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{failure} within {DEADLINE_S:.0f} s{more()}")
        time.sleep(0.1)
