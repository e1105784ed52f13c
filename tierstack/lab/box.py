"""The image as a box for Vagrant's LXC provider."""

import platform
import tempfile
from pathlib import Path

from tierstack.lab import machine
from tierstack.lab.commands import run, step
from tierstack.lab.image import WHEELS

#: Public on purpose, its private half comes with Vagrant. At a machine's first start Vagrant
#: replaces it by a key of that machine's own.
#: Source: hashicorp/vagrant, keys/vagrant.pub.
VAGRANT_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltG"
    "EFHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSI"
    "Fo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NO"
    "Td0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8t"
    "ehUc9c9WhQ== vagrant insecure public key"
)


def build_box(image: Path, file: Path) -> None:
    """
    Pack an image into a box file.

    Args:
        image: the root directory of the image.
        file: the box to write; one that is there is replaced.

    Raises:
        LabError: a step failed; a box that was there is still the old one.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".box-") as name:
        work = Path(name)  # mode 0700: the image may hold logins for package archives
        root = work / "rootfs"
        with step("box: a copy of the image, with the user vagrant"):
            run(["cp", "--archive", "--reflink=auto", str(image), str(root)])
            _furnish(root)
        with step(f"box: packing {file}"):
            (work / "lxc-config").write_text(_lxc_config())
            (work / "metadata.json").write_text('{"provider": "lxc", "version": "1.0.0"}\n')
            # Quick rather than small: it is unpacked on this machine, once for each host.
            tar = ["tar", "--directory", str(work), "--numeric-owner", "--xattrs"]
            run([*tar, "-I", "gzip -1", "-cf", str(work / "rootfs.tar.gz"), "./rootfs"])
            box = work / "box"
            run([*tar, "-cf", str(box), "./metadata.json", "./lxc-config", "./rootfs.tar.gz"])
            box.chmod(0o600)
            box.replace(file)


def _furnish(root: Path) -> None:
    chroot = ["chroot", str(root)]
    run([*chroot, "useradd", "--create-home", "--shell", "/bin/bash", "vagrant"])
    ssh = root / "home/vagrant/.ssh"
    ssh.mkdir(mode=0o700)
    (ssh / "authorized_keys").write_text(f"{VAGRANT_KEY}\n")
    run([*chroot, "chown", "--recursive", "vagrant:", "/home/vagrant/.ssh"])
    sudoers = root / "etc/sudoers.d/vagrant"
    sudoers.write_text("vagrant ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)
    # Each machine has keys and an id of its own, from its first start on. The packaged command
    # that checks the configuration fails without keys, so it comes second.
    drop_in = root / "etc/systemd/system/ssh.service.d/keys.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(
        "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n"
        "ExecStartPre=/usr/sbin/sshd -t\n"
    )
    (root / "etc/machine-id").write_text("")
    # Vagrant restarts the interface after it has set the machine's name. LXC has set it up, and
    # in a container there is no device that ifupdown's unit could wait for.
    (root / "etc/systemd/system/ifup@eth0.service").write_text(
        "[Service]\nType=oneshot\nExecStart=/bin/true\n"
    )
    # This machine's way out, which lab hosts get when they are made.
    (root / "etc/hosts").write_text(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    )
    (root / "etc/resolv.conf").write_text(machine.resolv_conf())
    (root / "etc/pip.conf").write_text(machine.pip_configuration(WHEELS))
    (root / "etc/apt/apt.conf.d/91proxies").write_text(machine.apt_proxies())


def _lxc_config() -> str:
    # The rest of the network, bridge and address, comes from the Vagrantfile.
    return f"""\
lxc.include = /usr/share/lxc/config/common.conf
lxc.arch = {platform.machine()}
lxc.apparmor.profile = unconfined
lxc.net.0.type = veth
lxc.net.0.name = eth0
lxc.net.0.flags = up
# sshfs needs it; a container cannot make the device itself.
lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file,optional 0 0
"""
