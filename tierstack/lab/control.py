"""The lab as a whole: what a person or a test does to its hosts."""

import fcntl
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from tierstack.lab import image, machine
from tierstack.lab.commands import LabError, run, step
from tierstack.lab.container import Container, make_key, monitors, wait_for
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
    """

    name: str
    address: str
    state: str
    cut: bool


class Lab:
    """
    The lab that the settings name, whether it exists yet or not.

    Args:
        settings: where it lives; from the environment when None.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.from_environment()

    # ------------------------------------------------------------------ all hosts

    def up(self, hosts: Mapping[str, str]) -> None:
        """
        Make the hosts that are missing and start those that are stopped.

        Running hosts stay as they are, and so do hosts that are not named. Returns when every
        host that was made or started answers over SSH and its systemd has finished booting.

        Args:
            hosts: names with their addresses in the lab's network.

        Raises:
            LabError: it cannot be done; hosts that were already running still run.
        """
        _require_root()
        with self._lock():
            self._refuse(hosts)
            machine.install_tools()
            self._network.refuse_collision()
            self._refuse_second_lab()
            with step(f"network {self.settings.subnet}"):
                self._prepare()
            root = image.ensure_image(self.settings.cache)
            containers = {self._container(name): IPv4Address(hosts[name]) for name in hosts}
            missing = [each for each in containers if not each.made or each.state == "stopped"]
            if missing:
                with step(f"hosts {', '.join(each.name for each in missing)}"):
                    for each in missing:
                        if not each.made:
                            each.remove()  # a half-made one, left by a crash
                            each.make(containers[each], root)
                    self._write_known_hosts()
                    _at_once(self._boot, missing)
            image.remove_unused_images(self.settings.cache, root)

    def down(self) -> None:
        """Remove every host, the network and all files of this lab; the image stays cached."""
        _require_root()
        with self._lock():
            containers = [self._container(name) for name in self._names()]
            what = ", ".join(each.name for each in containers) or "what is left of the lab"
            with step(f"removing {what}"):
                _at_once(Container.remove, containers)
                self._kill_orphans()
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

    def status(self) -> tuple[HostStatus, ...]:
        """Tell of each host, by name, how it is."""
        _require_root()
        containers = [self._container(name) for name in self._names()]
        return tuple(
            HostStatus(each.name, str(each.address), each.state, self._network.is_cut(each.address))
            for each in containers
            if each.made
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

        Not over the network, so it also works on a host that is cut.

        Args:
            host: the host's name.
            command: a program and its arguments; a login shell when empty.

        Returns:
            The exit status.

        Raises:
            LabError: there is no such host, or it does not run.
        """
        argv = self._running(host).attach_argv(list(command) or ["bash", "-l"])
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
        container = self._existing(host)
        if container.state == "stopped":
            container.start()
        if wait:
            self._running(host).wait_until_booted()

    def reboot(self, host: str) -> None:
        """Reboot a host in order, from inside, and wait until it is back."""
        container = self._running(host)
        before = container.init_pid
        run(container.attach_argv(["systemctl", "reboot"]), check=False)
        wait_for(lambda: container.init_pid not in ("", before), f"{host} did not boot again")
        container.wait_until_booted()

    def cut(self, host: str) -> None:
        """Cut a host's network: what it sends and is sent vanishes without an answer."""
        self._network.cut(self._existing(host).address)

    def heal(self, host: str) -> None:
        """Give a host its network back."""
        self._network.heal(self._existing(host).address)

    def freeze(self, host: str) -> None:
        """Make a host hang: its kernel still accepts connections, nothing in it runs."""
        self._running(host).freeze()

    def thaw(self, host: str) -> None:
        """Let a frozen host go on."""
        self._existing(host).thaw()

    # ------------------------------------------------------------------ making

    def _refuse(self, hosts: Mapping[str, str]) -> None:
        """Raise a LabError if these hosts cannot be made, before anything is touched."""
        subnet = self.settings.subnet
        if self._network.subnet != subnet:
            raise LabError(
                f"The lab runs on {self._network.subnet}, not on {subnet}; "
                f"set {SUBNET_VARIABLE}={self._network.subnet}, or run `tierstack lab down` first"
            )
        owners = {str(self._network.gateway): "this machine"}
        for name in self._names():
            container = self._container(name)
            if container.made:
                address = str(container.address)
                if hosts.get(name, address) != address:
                    raise LabError(
                        f"{name}: the lab has it at {address}, not at {hosts[name]}; "
                        "run `tierstack lab down` first, or give it its address back"
                    )
                owners[address] = name
        for name, text in hosts.items():
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

    def _prepare(self) -> None:
        settings = self.settings
        settings.hosts.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._record.write_text(json.dumps({"subnet": str(settings.subnet)}))
        self._cache_link.parent.mkdir(exist_ok=True)
        self._cache_link.unlink(missing_ok=True)
        self._cache_link.symlink_to(settings.hosts)
        self._kill_orphans()
        self._network.up()
        machine.load_nfs()
        machine.raise_inotify_limit()
        if not settings.key.exists():
            make_key(settings.key, "lab")

    def _write_known_hosts(self) -> None:
        containers = [self._container(name) for name in self._names()]
        lines = [f"{each.address} {each.host_key}\n" for each in containers if each.host_key]
        # Replaced, not rewritten: a deploy may be reading it.
        new = self.settings.known_hosts.with_suffix(".new")
        new.write_text("".join(lines))
        new.replace(self.settings.known_hosts)

    def _boot(self, container: Container) -> None:
        self._network.heal(container.address)
        container.start()
        container.wait_until_booted()
        (container.home / "made").touch()

    def _kill_orphans(self) -> None:
        """End containers of this lab whose directory is gone: LXC's own tools need it."""
        names = self._names()
        for name, process in monitors(self.settings.hosts).items():
            if name not in names:
                children = (process / "task" / process.name / "children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
                wait_for(partial(_is_gone, process), f"what is left of {name} did not end")

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

    def _names(self) -> list[str]:
        if not self.settings.hosts.is_dir():
            return []
        return sorted(entry.name for entry in self.settings.hosts.iterdir() if entry.is_dir())

    def _container(self, name: str) -> Container:
        return Container(name, self.settings, self._network)

    def _existing(self, name: str) -> Container:
        _require_root()
        container = self._container(name)
        if not container.made:
            known = ", ".join(self._names()) or "none; run `tierstack lab up INVENTORY` first"
            raise LabError(f'The lab has no host "{name}"; its hosts: {known}')
        if not self._network.exists():
            raise LabError(
                "The lab's network is gone, this machine was probably restarted; "
                "run `tierstack lab up INVENTORY`"
            )
        return container

    def _running(self, name: str) -> Container:
        container = self._existing(name)
        state = container.state
        if state == "stopped":
            raise LabError(f"{name} is stopped; run `tierstack lab start {name}` first")
        if state == "frozen":
            raise LabError(f"{name} is frozen; thaw it first")
        return container

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One `up` or `down` at a time, over all labs: they share the image."""
        self.settings.cache.mkdir(parents=True, exist_ok=True)
        with (self.settings.cache / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _require_root() -> None:
    if os.geteuid() != 0:
        raise LabError("The lab is made of containers and a network, which needs root; use sudo")


def _is_gone(path: Path) -> bool:
    return not path.exists()


def _at_once(action: Callable[[Container], None], containers: Iterable[Container]) -> None:
    """Do it for all in parallel; all are tried, then the first failure is raised."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        for done in [pool.submit(action, each) for each in containers]:
            done.result()
