"""The image that virtual machines start from: a disk of the lab's Debian, and a kernel for it."""

import hashlib
import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from tierstack.lab import machine
from tierstack.lab.commands import LabError, locked, remove_tree, run, step

# What a virtual machine needs to be a host at all.
PACKAGES = ("kmod",)
# What web and media hosts get, installed from outside: each process that is started inside costs
# 30 ms, and Apache's packages alone 108 s. Roles find them installed, and all of it switched off.
PREINSTALLED = (
    "apache2", "libapache2-mod-python", "python3-venv", "libpq5", "curl", "nfs-common",
    "nfs-kernel-server", "lighttpd", "acl", "nftables", "chrony", "openssl", "rsync", "logrotate",
)  # fmt: skip
# What has no use here and takes its time at each boot: there is no udev, no LVM, no screen.
MASKED_UNITS = (
    "ifupdown-pre.service", "e2scrub_reap.service", "getty@tty1.service",
    "modprobe@configfs.service", "modprobe@dm_mod.service", "modprobe@drm.service",
    "modprobe@efi_pstore.service", "modprobe@loop.service",
)  # fmt: skip
# They run, a process each, whenever systemd reads its units; none finds anything here.
MASKED_GENERATORS = tuple(
    f"systemd-{name}-generator" for name in (
        "cryptsetup", "debug", "getty", "gpt-auto", "hibernate-resume", "integritysetup",
        "rc-local", "run", "system-update", "sysv", "veritysetup",
    )
)  # fmt: skip
DISK_SIZE = "4G"  # sparse: what is not used costs nothing

# Debian builds this kernel's nf_tables for bridges only; a firewall has tables of family inet.
KERNEL_PACKAGE = "user-mode-linux"
BUILD_PACKAGES = (
    "gcc", "libc6-dev", "make", "bc", "flex", "bison", "libelf-dev", "xz-utils",
)  # fmt: skip
KERNEL_OPTIONS = (
    "--enable NF_TABLES_INET", "--enable NF_TABLES_IPV4", "--enable NF_TABLES_IPV6",
    "--module NFT_REJECT_INET", "--module NFT_REJECT_IPV4", "--module NFT_REJECT_IPV6",
    # Nobody debugs them, and they are a tenth of the size.
    "--enable DEBUG_INFO_NONE",
)  # fmt: skip
REBUILT_MODULES = (
    "net/netfilter/nf_tables.ko", "net/netfilter/nft_reject_inet.ko",
    "net/ipv4/netfilter/nft_reject_ipv4.ko", "net/ipv6/netfilter/nft_reject_ipv6.ko",
)  # fmt: skip

PRELOAD_SOURCE = Path(__file__).with_name("uml_preload.c")

# Runs before systemd, which reads the host's name and its machine-id first of all. A disk has no
# host key until its first boot, which takes over what is the host's own. The address is there
# before anything else is, as LXC gives it to a container: with ifupdown it takes seconds.
FIRST_PROCESS = """\
#!/bin/sh
if [ ! -e /etc/ssh/ssh_host_ed25519_key ]; then
    mount -t hostfs none /mnt && cp -a /mnt/. / && umount /mnt
fi
ip link set vec0 name eth0 mtu "$lab_mtu" up
ip address add "$lab_address" broadcast + dev eth0
ip route add default via "$lab_gateway"
unset lab_mtu lab_address lab_gateway
exec /sbin/init "$@"
"""
INIT = "/usr/local/sbin/lab-init"


@dataclass(frozen=True)
class VmImage:
    """
    What virtual machines start from.

    Attributes:
        directory: where it is cached.
    """

    directory: Path

    @property
    def kernel(self) -> Path:
        """The kernel, a program of this machine."""
        return self.directory / "linux"

    @property
    def preload(self) -> Path:
        """The library to load into the kernel; uml_preload.c says why."""
        return self.directory / "uml_preload.so"

    @property
    def disk(self) -> Path:
        """The disk, which hosts use read-only."""
        return self.directory / "disk.img"


def ensure_vm_image(cache: Path, root: Path) -> VmImage:
    """
    The image of virtual machines, built first if it is missing, by one process at a time.

    Args:
        cache: the directory that holds images.
        root: the containers' image, which the disk is made of.

    Raises:
        LabError: a step of the build failed.
    """
    found = _image(cache, root)
    # A lock of its own: it takes a minute, in which others may make containers.
    with locked(cache / "lock-vm"):
        if not found.directory.is_dir():
            # Built beside and renamed: what bears the image's name is whole.
            partial = VmImage(cache / "partial-vm")
            remove_tree(partial.directory)
            partial.directory.mkdir(parents=True)
            _build(partial, root)
            partial.directory.rename(found.directory)
    return found


def remove_unused_vm_images(cache: Path, root: Path) -> None:
    """
    Delete images of older recipes, unless a host stands on them.

    Args:
        cache: the directory that holds images.
        root: the containers' image, to which the current one belongs.
    """
    current = _image(cache, root)
    for directory in cache.glob("vm-*"):
        commands = cache.glob("labs/*/*/command")
        in_use = any(f"{directory}/" in command.read_text() for command in commands)
        if directory != current.directory and not in_use:
            with step(f"removing the old image {directory.name}"):
                remove_tree(directory)


def _image(cache: Path, root: Path) -> VmImage:
    recipe = Path(__file__).read_bytes() + PRELOAD_SOURCE.read_bytes() + root.name.encode()
    return VmImage(cache / f"vm-{hashlib.sha256(recipe).hexdigest()[:12]}")


def _build(target: VmImage, root: Path) -> None:
    work = target.directory / "work"
    disk, tools = Layer(root, work / "disk"), Layer(root, work / "tools")
    with step("virtual machines: kernel and its source"):
        _fetch_kernel(tools)
    with step("virtual machines: building the kernel's firewall modules"):
        _build_modules(tools)
        shutil.copy(PRELOAD_SOURCE, tools.upper / "uml_preload.c")
        tools.run("gcc -O2 -Wall -shared -fPIC -o /uml_preload.so /uml_preload.c")
        shutil.copy2(tools.upper / "uml_preload.so", target.preload)
    with step(f"virtual machines: installing {len(PREINSTALLED)} packages"):
        disk.run(f"packages='{' '.join((*PACKAGES, *PREINSTALLED))}'\n{_INSTALL}")
    with step("virtual machines: disk"):
        _settle(disk.upper)
        shutil.copytree(tools.upper / "kernel/usr/lib/uml/modules", disk.upper / "usr/lib/modules")
        disk.run("depmod $(ls /usr/lib/modules)")
        disk.write_disk(target.disk)
        shutil.copy2(tools.upper / "kernel/usr/bin/linux.uml", target.kernel)
    remove_tree(work)


@dataclass(frozen=True)
class Layer:
    """
    A root directory that is another one, unchanged, and what was done on top of it.

    Attributes:
        root: the other one.
        directory: what is this one's.
    """

    root: Path
    directory: Path

    @property
    def upper(self) -> Path:
        """What differs from the other one; write here between runs."""
        upper = self.directory / "upper"
        upper.mkdir(parents=True, exist_ok=True)
        return upper

    def run(self, script: str) -> str:
        """
        Run a shell script in it, as root, with this machine's way out.

        Args:
            script: stops at the first command that fails.

        Returns:
            What it printed.

        Raises:
            LabError: a command failed; the text ends with its last lines.
        """
        inside = f'chroot "$root" sh -ec {shlex.quote(script)} </dev/null\n'
        with machine.way_out(self.upper):
            return self._mounted('mount -t proc proc "$root/proc"\n' + inside)

    def write_disk(self, image: Path) -> None:
        """
        Write it to a new disk image.

        Args:
            image: the file.
        """
        # Prepared to the end here, or each host would fill its own disk in the background.
        lazy = "lazy_itable_init=0,lazy_journal_init=0"
        self._mounted(f'mkfs.ext4 -q -E {lazy} -d "$root" "{image}" {DISK_SIZE}\n')

    def _mounted(self, script: str) -> str:
        root, work = self.directory / "root", self.directory / "overlay"
        for directory in (root, work):
            directory.mkdir(exist_ok=True)
        layers = f"lowerdir={self.root},upperdir={self.upper},workdir={work}"
        # What is mounted goes with the namespace, even when this is killed.
        argv = ["unshare", "--mount", "sh", "-e"]
        head = f'root="{root}"\nmount -t overlay overlay -o "{layers}" "$root"\n'
        return run(argv, text_in=head + script).stdout


_INSTALL = """
export DEBIAN_FRONTEND=noninteractive
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
enabled() { systemctl list-unit-files --state=enabled --no-legend | cut -d' ' -f1 | sort; }
enabled > /tmp/before
apt-get install -y -q --no-install-recommends $packages
# A host that nobody has deployed to serves nothing; roles enable what they use.
enabled | comm -13 /tmp/before - | xargs -r systemctl disable
rm /tmp/before /usr/sbin/policy-rc.d
# Each has a unit beside it; `systemctl enable` takes five seconds in there to look after both.
rm /etc/init.d/*
"""


def _fetch_kernel(tools: Layer) -> None:
    """Unpack the kernel to /kernel, and to /source exactly what it was built of."""
    built_using = tools.run(
        "mkdir /kernel /source\ncd /tmp\n"
        f"apt-get -q download {KERNEL_PACKAGE} >/dev/null\n"
        f"dpkg-deb -x {KERNEL_PACKAGE}_*.deb /kernel\n"
        f"dpkg-deb -f {KERNEL_PACKAGE}_*.deb Built-Using\n"
    )
    found = re.search(r"linux \(= ((\d+\.\d+)\.\S+)\)", built_using)
    if not found:
        raise LabError(f"{KERNEL_PACKAGE} does not say of which source it was built: {built_using}")
    version, series = found.groups()
    tools.run(
        "export DEBIAN_FRONTEND=noninteractive\n"
        f"apt-get install -y -q --no-install-recommends {' '.join(BUILD_PACKAGES)}\n"
        f"cd /tmp\napt-get -q download linux-source-{series}={version}\n"
        f"dpkg-deb --fsys-tarfile linux-source-{series}_*.deb"
        f" | tar -xO ./usr/src/linux-source-{series}.tar.xz"
        " | tar -xJ -C /source --strip-components=1"
        " --exclude='*/drivers/*.[ch]' --exclude='*/Documentation/*.rst'\n"
    )


def _build_modules(tools: Layer) -> None:
    """Build the modules that Debian left out, into the kernel's directory of modules."""
    modules = " ".join(REBUILT_MODULES)
    tools.run(
        "cd /source\nexport ARCH=um\n"
        "zcat /kernel/usr/share/doc/user-mode-linux/config.gz > .config\n"
        f"scripts/config {' '.join(KERNEL_OPTIONS)}\n"
        f"make -s olddefconfig\nmake -s -j{os.cpu_count()} modules_prepare\n"
        # Without the whole kernel's list of symbols; depmod finds who needs whom.
        f"make -s -j{os.cpu_count()} KBUILD_MODPOST_WARN=1 {modules}\n"
        f"cp --parents {modules} /kernel/usr/lib/uml/modules/$(make -s kernelrelease)/kernel/\n"
    )


def _settle(upper: Path) -> None:
    init = upper / INIT[1:]
    init.parent.mkdir(parents=True, exist_ok=True)
    init.write_text(FIRST_PROCESS)
    init.chmod(0o755)
    systemd = upper / "etc/systemd"
    (systemd / "system-generators").mkdir(parents=True, exist_ok=True)
    for mask in (
        *(systemd / "system" / unit for unit in MASKED_UNITS),
        *(systemd / "system-generators" / name for name in MASKED_GENERATORS),
    ):
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    # A module of this kernel, part of Debian's usual one: programs expect it to be there.
    load = upper / "etc/modules-load.d"
    load.mkdir(parents=True, exist_ok=True)
    (load / "lab.conf").write_text("ipv6\n")
