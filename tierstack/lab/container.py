"""One host: an LXC container that is an overlay of the image."""

import os
import platform
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from tierstack.lab import image, machine
from tierstack.lab.commands import LabError, remove_tree, run
from tierstack.lab.network import Network, outer_mtu
from tierstack.lab.settings import Settings

# Hosts are up in a second or two; a busy CI machine may take many times that.
DEADLINE_S = 180.0


@dataclass(frozen=True)
class Container:
    """
    A host of that name in that lab, whether it exists or not.

    Attributes:
        name: the host's name.
        settings: the lab's.
        network: the lab's.
    """

    name: str
    settings: Settings
    network: Network

    @property
    def home(self) -> Path:
        """All there is of the host: LXC's config, its logs, and what differs from the image."""
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
    def state(self) -> str:
        """Whether it is "running", "stopped" or "frozen"."""
        answer = run(["lxc-info", *self._lxc, "-sH"], check=False).stdout.strip().lower()
        if answer == "frozen":
            return "frozen"
        # All else than stopped has processes, which is what callers ask about. While it
        # reboots, LXC says stopped; its monitor knows better.
        if answer in ("", "stopped") and self.name not in monitors(self.settings.hosts):
            return "stopped"
        return "running"

    @property
    def init_pid(self) -> str:
        """The process id, on this machine, of its init; empty when stopped."""
        return run(["lxc-info", *self._lxc, "-pH"], check=False).stdout.strip()

    @property
    def host_key(self) -> str | None:
        """Its SSH host key, as known_hosts has it; None in a half-made host."""
        public = self.home / "delta/etc/ssh/ssh_host_ed25519_key.pub"
        return " ".join(public.read_text().split()[:2]) if public.exists() else None

    # ------------------------------------------------------------------ life

    def make(self, address: IPv4Address, root: Path) -> None:
        """
        Write what differs from the image: its name, its keys, and this machine's way out.

        Args:
            address: its address in the lab.
            root: the image.
        """
        etc = self.home / "delta/etc"
        ssh = self.home / "delta/root/.ssh"
        (etc / "ssh").mkdir(parents=True)
        ssh.mkdir(parents=True)
        for directory in (self.home, self.home / "delta/root", ssh):
            directory.chmod(0o700)
        (self.home / "address").write_text(str(address))
        (self.home / "config").write_text(self._config(address, root))
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

    def start(self) -> None:
        """
        Give it power; returns before it has booted.

        Raises:
            LabError: LXC could not; the text ends with its log.
        """
        # The kernel removes the cable of a stopped host when it gets round to it.
        run(["ip", "link", "del", self.network.veth(self.address)], check=False)
        log = self.home / "lxc.log"
        log.unlink(missing_ok=True)
        if run(["lxc-start", *self._lxc, "-d"], check=False).returncode != 0:
            lines = log.read_text().splitlines() if log.exists() else []
            raise LabError(
                f"LXC could not start {self.name}, its log ends:\n"
                + "\n".join(f"  {line}" for line in lines[-5:])
            )

    def stop(self) -> None:
        """Take its power away, also from a frozen one; returns when it is gone."""
        run(["lxc-stop", *self._lxc, "-k"], check=False)
        wait_for(lambda: self.state == "stopped", f"{self.name} did not stop")

    def remove(self) -> None:
        """Remove it and all that is on it, whatever state a crash left it in."""
        if self.state != "stopped":
            self.stop()
        if (self.home / "address").exists():
            self.network.heal(self.address)  # or the next host of that address is born cut
        remove_tree(self.home)

    def freeze(self) -> None:
        """Stop all its processes where they are."""
        run(["lxc-freeze", *self._lxc])

    def thaw(self) -> None:
        """Let a frozen one go on."""
        run(["lxc-unfreeze", *self._lxc])

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

    # ------------------------------------------------------------------ ways in

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

    def attach_argv(self, command: Iterable[str]) -> list[str]:
        """The command line that runs a program in it as root, without its network."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            "lxc-attach", *self._lxc, "--clear-env", "-v", path, "-v", "HOME=/root",
            "-v", f"TERM={os.environ.get('TERM', 'dumb')}", "--", *command,
        ]  # fmt: skip

    # ------------------------------------------------------------------ LXC

    @property
    def _lxc(self) -> list[str]:
        return ["-P", str(self.settings.hosts), "-n", self.name]

    def _config(self, address: IPv4Address, root: Path) -> str:
        subnet = self.network.subnet
        return f"""\
lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = {platform.machine()}
lxc.uts.name = {self.name}
lxc.rootfs.path = overlay:{root}:{self.home}/delta
lxc.apparmor.profile = unconfined
lxc.tty.max = 0
lxc.log.file = {self.home}/lxc.log
lxc.console.logfile = {self.home}/console.log
lxc.net.0.type = veth
lxc.net.0.link = {self.network.bridge}
lxc.net.0.veth.pair = {self.network.veth(address)}
lxc.net.0.name = eth0
# LXC would choose another at each start, and peers that know the old one would wait for it.
lxc.net.0.hwaddr = {self.network.mac(address)}
lxc.net.0.mtu = {outer_mtu()}
lxc.net.0.flags = up
lxc.net.0.ipv4.address = {address}/{subnet.prefixlen} {subnet.broadcast_address}
lxc.net.0.ipv4.gateway = {self.network.gateway}
# sshfs needs it; a container cannot make the device itself.
lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file,optional 0 0
"""


def monitors(hosts: Path) -> dict[str, Path]:
    """
    Find the processes in which LXC watches over the containers of a lab.

    Args:
        hosts: the lab's LXC path.

    Returns:
        Directories in /proc by the container's name; also of those whose own directory is gone.
    """
    prefix = f"[lxc monitor] {hosts} "
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_text(errors="replace").rstrip("\0 ")
        except OSError:
            continue  # it ended meanwhile
        if title.startswith(prefix):
            found[title.removeprefix(prefix)] = process
    return found


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
