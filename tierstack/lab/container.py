"""A host that is an LXC container: an overlay of the image, on this machine's kernel."""

import os
import platform
import signal
from collections.abc import Collection, Iterable
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from tierstack.lab.commands import LabError, run
from tierstack.lab.host import Host, processes, wait_for
from tierstack.lab.network import outer_mtu


class Container(Host):
    """A host that shares this machine's kernel and is up in a second or two."""

    kind = "container"

    def make(self, address: IPv4Address, root: Path) -> None:
        """
        Write what it is started from.

        Args:
            address: its address in the lab.
            root: the image.
        """
        self.write_delta(address)
        (self.home / "config").write_text(self._config(address, root))

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

    def start(self) -> None:
        """
        Give it power; returns before it has booted.

        Raises:
            LabError: LXC could not; the text ends with its log.
        """
        # The kernel removes the cable of a stopped host when it gets round to it.
        self.network.remove_cable(self.address)
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

    def freeze(self) -> None:
        """Stop all its processes where they are; the kernel still accepts connections."""
        run(["lxc-freeze", *self._lxc])

    def thaw(self) -> None:
        """Let a frozen one go on."""
        run(["lxc-unfreeze", *self._lxc])

    def reboot(self) -> None:
        """Reboot it in order, from inside; returns when it boots again."""
        before = self._init_pid
        run(self.shell_argv(["systemctl", "reboot"]), check=False)
        wait_for(lambda: self._init_pid not in ("", before), f"{self.name} did not boot again")

    def shell_argv(self, command: Iterable[str]) -> list[str]:
        """The command line that runs a program in it as root, without its network."""
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return [
            "lxc-attach", *self._lxc, "--clear-env", "-v", path, "-v", "HOME=/root",
            "-v", f"TERM={os.environ.get('TERM', 'dumb')}", "--", *command,
        ]  # fmt: skip

    @property
    def _lxc(self) -> list[str]:
        return ["-P", str(self.settings.hosts), "-n", self.name]

    @property
    def _init_pid(self) -> str:
        """The process id, on this machine, of its init; empty when stopped."""
        return run(["lxc-info", *self._lxc, "-pH"], check=False).stdout.strip()

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
lxc.net.0.veth.pair = {self.network.cable(address)}
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
    for process in processes():
        try:
            title = (process / "cmdline").read_text(errors="replace").rstrip("\0 ")
        except OSError:
            continue  # it ended meanwhile
        if title.startswith(prefix):
            found[title.removeprefix(prefix)] = process
    return found


def kill_orphans(hosts: Path, names: Collection[str]) -> None:
    """
    End containers whose directory is gone: LXC's own tools need it.

    Args:
        hosts: the lab's LXC path.
        names: the hosts that have a directory.
    """
    for name, process in monitors(hosts).items():
        if name in names:
            continue
        for child in (process / "task" / process.name / "children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        wait_for(partial(_is_gone, process), f"what is left of {name} did not end")


def _is_gone(path: Path) -> bool:
    return not path.exists()
