"""The lab as a whole: what a person or a test does to its hosts."""

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tierstack.lab import box, image, machine, vm_image
from tierstack.lab.commands import LabError, locked, run, step
from tierstack.lab.container import Container
from tierstack.lab.host import Host, make_key
from tierstack.lab.hosts import Hosts
from tierstack.lab.network import Network
from tierstack.lab.settings import DIRECTORY_VARIABLE, SUBNET_VARIABLE, Settings


@dataclass(frozen=True)
class HostStatus:
    """
    A host of the lab as it is now.

    Attributes:
        name: its name.
        address: its address in the lab.
        state: "running", "stopped" or "frozen".
        cut: whether its network is cut.
        kind: "container" or "virtual machine".
    """

    name: str
    address: str
    state: str
    cut: bool
    kind: str = Container.kind


class Lab:
    """
    The lab that the settings name, whether it exists yet or not.

    Args:
        settings: where it lives; from the environment when None.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_environment()

    # ------------------------------------------------------------------ all hosts

    def up(self, hosts: Mapping[str, str], vms: Mapping[str, int] | None = None) -> None:
        """
        Make the hosts that are missing and start those that are stopped.

        Running hosts stay as they are, and so do hosts that are not named. Returns when every
        host that was made or started answers over SSH and its systemd has finished booting.

        Args:
            hosts: names with their addresses in the lab's network.
            vms: those to be made as virtual machines, with their memory in MiB; the others are
                made as containers, and a host that exists stays what it is.

        Raises:
            LabError: it cannot be done; hosts that were already running still run.
        """
        _require_root()
        vms = vms or {}
        with self._lock():
            self._hosts.refuse(hosts, vms)
            machine.install_tools()
            self._network.refuse_collision()
            self._refuse_second_lab()
            with step(f"network {self.settings.subnet}"):
                self._prepare()
            root = image.ensure_image(self.settings.cache)
            new = [name for name in hosts if not self._hosts.get(name).made]
            if any(name in vms for name in new):
                vm_image.ensure_vm_image(self.settings.cache, root)
            missing = [
                name for name in hosts if name in new or self._hosts.get(name).state == "stopped"
            ]
            if missing:
                with step(f"hosts {', '.join(missing)}"):
                    for name in new:
                        self._hosts.get(name).remove()  # a half-made one, left by a crash
                        self._make(name, IPv4Address(hosts[name]), root, vms.get(name))
                    self._hosts.write_known_hosts()
                    _at_once(self._boot, [self._hosts.get(name) for name in missing])
            image.remove_unused_images(self.settings.cache, root)
            vm_image.remove_unused_vm_images(self.settings.cache, root)

    def build_images(self, *, vms: bool) -> None:
        """
        Build the images that are missing, so that `up` finds them.

        Args:
            vms: whether that of virtual machines is wanted, too.

        Raises:
            LabError: a step of a build failed.
        """
        _require_root()
        with self._lock():
            machine.install_tools()
            root = image.ensure_image(self.settings.cache)
        if vms:
            vm_image.ensure_vm_image(self.settings.cache, root)

    def down(self) -> None:
        """Remove every host, the network and all files of this lab; the image stays cached."""
        _require_root()
        with self._lock():
            what = ", ".join(self._hosts.names) or "what is left of the lab"
            with step(f"removing {what}"):
                _at_once(Host.remove, self._hosts.all())
                self._hosts.kill_orphans()
                self._network.down()
                # Only what the lab made: the directory is the user's choice and may hold more.
                key = self.settings.key
                for file in (
                    key, key.with_suffix(".pub"), self.settings.known_hosts, self._record,
                    self._cache_link,
                ):  # fmt: skip
                    file.unlink(missing_ok=True)
                for directory in (self.settings.hosts, self.settings.directory):
                    if directory.is_dir() and not any(directory.iterdir()):
                        directory.rmdir()

    def box(self, file: Path) -> None:
        """
        Pack the image as a box for Vagrant's LXC provider.

        Args:
            file: the box to write; one that is there is replaced.

        Raises:
            LabError: it cannot be done; a box that was there is still the old one.
        """
        _require_root()
        with self._lock():
            machine.install_tools()
            box.build_box(image.ensure_image(self.settings.cache), file)

    def status(self) -> tuple[HostStatus, ...]:
        """Tell of each host, by name, how it is."""
        _require_root()
        return tuple(
            HostStatus(
                host.name,
                str(host.address),
                host.state,
                cut=self._network.is_cut(host.address),
                kind=host.kind,
            )
            for host in self._hosts.all()
            if host.made
        )

    # ------------------------------------------------------------------ one host

    def ssh(
        self, host: str, command: str, *, text_in: str = "", timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """
        Run a shell command on a host, as root, over the network.

        Args:
            host: the host's name.
            command: what its shell runs.
            text_in: its standard input.
            timeout_s: how long it may take, in seconds.

        Returns:
            Exit status (255 when SSH itself failed), standard output and standard error.

        Raises:
            LabError: there is no such host.
            subprocess.TimeoutExpired: it took longer than timeout_s.
        """
        argv = [*self.ssh_argv(host), command]
        return run(argv, check=False, text_in=text_in, timeout_s=timeout_s)

    def ssh_argv(self, host: str) -> list[str]:
        """The ssh command line that reaches a host, for callers that keep a process."""
        return self._existing(host).ssh_argv()

    def shell(self, host: str, command: Sequence[str] = ()) -> int:
        """
        Open a root shell in a host, or run a command there, on this terminal.

        Not over the network, so it also works on a host that is cut; a virtual machine has no
        other way in.

        Args:
            host: the host's name.
            command: a program and its arguments; a single word with blanks is what a shell runs;
                a login shell when empty.

        Returns:
            The exit status.

        Raises:
            LabError: there is no such host, it does not run, or it has no way in.
        """
        argv = self._running(host).shell_argv(what_runs(command))
        return subprocess.run(argv, check=False).returncode

    def kill(self, host: str) -> None:
        """
        Take a host's power away.

        Its network goes first: a kernel that ends processes closes their connections, and
        peers would be told; those of a host without power never are.
        """
        self.cut(host)
        self._existing(host).stop()

    def start(self, host: str, *, wait: bool = True) -> None:
        """
        Give a host its power and its network back.

        Args:
            host: the host's name.
            wait: until it answers over SSH and has finished booting.
        """
        self.heal(host)
        existing = self._existing(host)
        if existing.state == "stopped":
            existing.start()
        if wait:
            self._running(host).wait_until_booted()

    def reboot(self, host: str) -> None:
        """Reboot a host in order, from inside, and wait until it is back."""
        running = self._running(host)
        running.reboot()
        running.wait_until_booted()

    def cut(self, host: str) -> None:
        """Cut a host's network: what it sends and is sent vanishes without an answer."""
        self._network.cut(self._existing(host).address)

    def heal(self, host: str) -> None:
        """Give a host its network back."""
        self._network.heal(self._existing(host).address)

    def freeze(self, host: str) -> None:
        """
        Make a host hang.

        A container's kernel is this machine's and still accepts connections, while nothing in
        it runs; a virtual machine's stands still as well.
        """
        self._running(host).freeze()

    def thaw(self, host: str) -> None:
        """Let a frozen host go on."""
        self._existing(host).thaw()

    # ------------------------------------------------------------------ making

    def _prepare(self) -> None:
        settings = self.settings
        settings.hosts.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record.write_text(json.dumps({"subnet": str(settings.subnet)}))
        self._cache_link.parent.mkdir(exist_ok=True)
        self._cache_link.unlink(missing_ok=True)
        self._cache_link.symlink_to(settings.hosts)
        self._hosts.kill_orphans()
        self._network.up()
        machine.load_nfs()
        machine.raise_inotify_limit()
        if not settings.key.exists():
            make_key(settings.key, "lab")

    def _make(self, name: str, address: IPv4Address, root: Path, memory_mb: int | None) -> None:
        if memory_mb is None:
            self._hosts.container(name).make(address, root)
        else:
            built = vm_image.ensure_vm_image(self.settings.cache, root)
            self._hosts.virtual_machine(name).make(address, built, memory_mb)

    def _boot(self, host: Host) -> None:
        self._network.heal(host.address)
        host.start()
        host.wait_until_booted()
        (host.home / "made").touch()

    # ------------------------------------------------------------------ files

    @property
    def _record(self) -> Path:
        return self.settings.directory / "lab.json"

    @property
    def _cache_link(self) -> Path:
        """Tells image.py where to look for hosts that stand on an image."""
        return self.settings.cache / "labs" / self._network.bridge

    def _refuse_second_lab(self) -> None:
        """Refuse to take over the bridge of a lab that lives in another directory."""
        link = self._cache_link
        other = link.readlink() if link.is_symlink() else self.settings.hosts
        if other != self.settings.hosts and other.is_dir() and any(other.iterdir()):
            raise LabError(
                f"The lab in {other.parent} already uses {self._network.subnet}; "
                f"set {SUBNET_VARIABLE} to another network, or take that lab down first: "
                f"{DIRECTORY_VARIABLE}={other.parent} tierstack lab down"
            )

    @property
    def _network(self) -> Network:
        # The lab that exists decides, so that `down` removes the right bridge after the
        # setting was changed.
        if self._record.exists():
            return Network(IPv4Network(json.loads(self._record.read_text())["subnet"]))
        return Network(self.settings.subnet)

    @property
    def _hosts(self) -> Hosts:
        return Hosts(self.settings, self._network)

    def _existing(self, name: str) -> Host:
        _require_root()
        host = self._hosts.get(name)
        if not host.made:
            known = ", ".join(self._hosts.names) or "none; run `tierstack lab up INVENTORY` first"
            raise LabError(f'The lab has no host "{name}"; its hosts: {known}')
        if not self._network.exists():
            raise LabError(
                "The lab's network is gone, this machine was probably restarted; "
                "run `tierstack lab up INVENTORY`"
            )
        return host

    def _running(self, name: str) -> Host:
        host = self._existing(name)
        state = host.state
        if state == "stopped":
            raise LabError(f"{name} is stopped; run `tierstack lab start {name}` first")
        if state == "frozen":
            raise LabError(f"{name} is frozen; thaw it first")
        return host

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time, over all labs: they share the image."""
        self.settings.cache.mkdir(parents=True, exist_ok=True)
        with locked(self.settings.cache / "lock"):
            yield


def what_runs(command: Sequence[str]) -> list[str]:
    """
    Return the program and arguments that somebody means by the words behind `tierstack lab shell HOST`.

    Args:
        command: the words; a single one with blanks is for a shell, as `ssh HOST 'ls /'` has it.
    """
    if len(command) == 1 and len(command[0].split()) > 1:
        return ["sh", "-c", command[0]]
    return list(command) or ["bash", "-l"]


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("The lab is made of hosts and a network, which needs root; use sudo")


def _at_once(action: Callable[[Host], None], hosts: Iterable[Host]) -> None:
    """Do it for all in parallel; all are tried, then the first failure is raised."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        for done in [pool.submit(action, host) for host in hosts]:
            done.result()
