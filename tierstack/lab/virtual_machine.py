"""
A host that is a virtual machine: User-Mode Linux, a kernel of its own that is a program here.

For what a container cannot have: NFS, kernel settings of its own, a clock, loadable modules. Its
disk is a copy-on-write file over the image's; what is the host's own (names, keys) lies in its
`delta` here and is taken over at its first boot.
"""

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Collection, Iterable
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from tierstack.lab.commands import LabError, remove_tree, run
from tierstack.lab.host import Host, processes, wait_for
from tierstack.lab.network import outer_mtu
from tierstack.lab.vm_image import INIT, VmImage

# Its memory is a file there, deleted as soon as it is open.
MEMORY_DIRECTORY = "/dev/shm"  # noqa: S108  # the kernel makes a name of its own in it
COMMAND = "command"


class VirtualMachine(Host):
    """A host with a kernel of its own, up in ten seconds or so."""

    kind = "virtual machine"

    def make(self, address: IPv4Address, image: VmImage, memory_mb: int) -> None:
        """
        Write what it is started from.

        Args:
            address: its address in the lab.
            image: what its disk starts as, and its kernel.
            memory_mb: its memory, in MiB.
        """
        delta = self.write_delta(address)
        network = self.network
        # A name of its own for the kernel: all of the host's processes, and no others, run it.
        try:
            self._kernel.hardlink_to(image.kernel)
        except OSError:
            self._kernel.write_bytes(image.kernel.read_bytes())
            self._kernel.chmod(0o755)
        mac = network.mac(address)
        argv = [
            str(self._kernel), f"umid={self.name}", f"uml_dir={self._control}/", f"mem={memory_mb}M",
            f"ubd0={self.home}/disk.cow,{image.disk}", "root=/dev/ubda", "rw", f"init={INIT}",
            f"hostfs={delta}",
            # For the image's first process.
            f"lab_address={address}/{network.subnet.prefixlen}",
            f"lab_gateway={network.gateway}", f"lab_mtu={outer_mtu()}",
            f"vec0:transport=tap,ifname={network.cable(address)},mac={mac},depth=128,gro=1",
            # What it says goes to its standard output, and it reads nothing.
            "con=null", "con0=null,fd:1", "ssl=null",
        ]  # fmt: skip
        environment = {"TMPDIR": MEMORY_DIRECTORY, "LD_PRELOAD": str(image.preload)}
        text = json.dumps({"argv": argv, "environment": environment}, indent=1)
        (self.home / COMMAND).write_text(text)

    @property
    def begun(self) -> bool:
        """Whether its making has got as far as that it can be started."""
        return (self.home / COMMAND).exists()

    @property
    def state(self) -> str:
        """Whether it is "running", "stopped" or "frozen"."""
        states = [_status(process, "State") for process in self._own_processes()]
        if not states:
            return "stopped"
        return "frozen" if all(state == "T" for state in states) else "running"

    def start(self) -> None:
        """Give it power; returns before it has booted."""
        end_processes(self._kernel)  # of a kernel that crashed
        # What it left would make it take another name.
        remove_tree(self._control)
        self._control.mkdir()
        self.network.add_tap(self.address)
        command = json.loads((self.home / COMMAND).read_text())
        log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        # A session of its own, so that no terminal's end is its end too; and not by `subprocess`,
        # which complains of a process that it is not to wait for.
        kernel = os.posix_spawn(
            self._kernel,
            command["argv"],
            command["environment"],
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.home / "console.log"), log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        # What it starts inherits this.
        os.sched_setaffinity(kernel, {self._processor})

    def stop(self) -> None:
        """Take its power away, also from a frozen one; returns when it is gone."""
        end_processes(self._kernel)
        self.network.remove_cable(self.address)

    def freeze(self) -> None:
        """Stop it where it is, its kernel too: it does not even answer pings."""
        for process in self._own_processes():
            _signal(process, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen one go on."""
        for process in self._own_processes():
            _signal(process, signal.SIGCONT)

    def reboot(self) -> None:
        """Reboot it in order, from inside; returns when it boots again."""
        before = self._boot_id()
        run([*self.ssh_argv(), "systemctl reboot"], check=False, timeout_s=60)
        wait_for(lambda: self._boot_id() not in ("", before), f"{self.name} did not boot again")

    def shell_argv(self, command: Iterable[str]) -> list[str]:
        """
        The command line that runs a program in it as root, over the network.

        Raises:
            LabError: its network is cut, and there is no other way in.
        """
        if self.network.is_cut(self.address):
            raise LabError(
                f"{self.name} is a virtual machine and cut off, its network is the only way in; "
                f"run `tierstack lab heal {self.name}` first"
            )
        return [*self.ssh_argv()[:-1], "-t" if os.isatty(0) else "-T", self.ssh_argv()[-1],
                shlex.join(command)]  # fmt: skip

    @property
    def _processor(self) -> int:
        """
        The processor of this machine that it runs on; the lab's virtual machines take turns.

        At each system call its kernel and a program wait for each other. Each on a processor of
        its own, they would wake that one up each time, which takes four times as long.
        """
        commands = sorted(self.settings.hosts.glob(f"*/{COMMAND}"))
        processors = sorted(os.sched_getaffinity(0))
        return processors[commands.index(self.home / COMMAND) % len(processors)]

    @property
    def _kernel(self) -> Path:
        return self.home / "linux"

    @property
    def _control(self) -> Path:
        return self.home / "control"

    def _boot_id(self) -> str:
        """Identify its present boot; empty while it does not answer."""
        argv = [*self.ssh_argv(), "cat /proc/sys/kernel/random/boot_id"]
        try:
            return run(argv, check=False, timeout_s=10).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def _own_processes(self) -> list[Path]:
        """The kernel's processes, without those in which it runs programs."""
        # The latter it traces: it lets them run, and a stop would reach it as a signal of theirs.
        return [each for each in _running(self._kernel) if _status(each, "TracerPid") == "0"]


def end_processes(kernel: Path) -> None:
    """End all processes of the virtual machine that runs this kernel, as a loss of power does."""

    def ended() -> bool:
        left = _running(kernel)
        # The kernel first of all stands still, or it would go on making processes.
        for process in left:
            if _status(process, "TracerPid") == "0":
                _signal(process, signal.SIGSTOP)
        for process in left:
            _signal(process, signal.SIGKILL)
        return not left

    wait_for(ended, f"what runs {kernel} did not end")


def kill_orphans(hosts: Path, names: Collection[str]) -> None:
    """
    End virtual machines whose directory is gone.

    Args:
        hosts: the lab's directory of hosts.
        names: the hosts that have a directory.
    """
    for process in processes():
        kernel = _program(process)
        of_this_lab = kernel.name == "linux" and kernel.parent.parent == hosts
        if of_this_lab and kernel.parent.name not in names:
            end_processes(kernel)


def _running(kernel: Path) -> list[Path]:
    return [process for process in processes() if _program(process) == kernel]


def _program(process: Path) -> Path:
    """The program that a process runs, also after its file was deleted."""
    try:
        return Path(str((process / "exe").readlink()).removesuffix(" (deleted)"))
    except OSError:
        return Path()  # it ended meanwhile, or is a thread of this machine's kernel


def _status(process: Path, key: str) -> str:
    """The first word of a line of a process's status; empty when it has ended."""
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return ""
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


def _signal(process: Path, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended meanwhile
        os.kill(int(process.name), number)
