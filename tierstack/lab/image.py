"""The image that all hosts are overlays of: a small Debian with systemd and sshd."""

import hashlib
import os
import platform
import sys
from pathlib import Path

from tierstack.lab import machine
from tierstack.lab.commands import LabError, remove_tree, run, step

RELEASE = "bookworm"
# What a rented Debian host has, no more: everything else is a role's to install.
PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "libpam-systemd", "openssh-server", "sudo", "iproute2",
    "ifupdown", "netbase", "procps", "ca-certificates", "python3",
)  # fmt: skip
# Only downloaded, so that a role's apt-get install finds them on the disk.
DOWNLOADED_PACKAGES = (
    "apache2", "libapache2-mod-python", "postgresql", "postgresql-client", "memcached",
    "lighttpd", "haproxy", "nftables", "chrony", "sshfs", "nfs-kernel-server", "nfs-common",
    "openssh-server", "openssl", "python3-venv", "python3-pip", "python3-dev", "libpq5", "curl",
    "rsync", "lsyncd", "acl", "logrotate", "socat",
)  # fmt: skip
DOWNLOADED_WHEELS = ("Django>=5.2,<5.3", "psycopg[binary]", "pymemcache", "Pillow")
RELEASE_PYTHON = "3.11"
WHEELS = "/opt/lab-wheels"
# They would hold apt's lock, or want the disk, just when a deploy runs.
MASKED_UNITS = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer",
    "fstrim.timer", "console-getty.service",
)  # fmt: skip


def image_key() -> str:
    """A name that changes whenever the recipe or this machine's sources and trust do."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(machine.apt_configuration().encode())
    for file in (
        *machine.apt_sources(RELEASE),
        Path("/etc/ssl/certs/ca-certificates.crt"),
        *sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt")),
    ):
        digest.update(file.read_bytes() if file.is_file() else b"")
    return f"{RELEASE}-{digest.hexdigest()[:12]}"


def ensure_image(cache: Path) -> Path:
    """
    The root directory of the image, built first if it is missing.

    Args:
        cache: the directory that holds images; the caller holds the lab's lock.

    Returns:
        A directory that hosts use read-only.

    Raises:
        LabError: a step of the build failed.
    """
    image = cache / image_key()
    if image.is_dir():
        return image
    # Built beside and renamed: what bears the image's name is whole.
    partial = cache / "partial"
    remove_tree(partial)
    _build(partial)
    partial.rename(image)
    return image


def remove_unused_images(cache: Path, keep: Path) -> None:
    """
    Delete images of older recipes, unless a host stands on them.

    Args:
        cache: the directory that holds images.
        keep: the current image.
    """
    for image in cache.glob(f"{RELEASE}-*"):
        links = cache.glob("labs/*/*/config")
        in_use = any(f"overlay:{image}:" in config.read_text() for config in links)
        if image != keep and not in_use:
            with step(f"removing the old image {image.name}"):
                remove_tree(image)


def _build(root: Path) -> None:
    with step(f"image: Debian {RELEASE} with systemd and sshd"):
        _install_debian(root)
    with step("image: this machine's certificates"):
        machine.copy_certificates(root)
        _settle(root)
    with step(f"image: downloading {len(DOWNLOADED_PACKAGES)} packages for the roles to install"):
        chroot = ["chroot", str(root), "env", "DEBIAN_FRONTEND=noninteractive"]
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "--download-only"]
        with machine.way_out(root):
            run([*chroot, *install, *DOWNLOADED_PACKAGES])
    with step("image: downloading wheels for the example site"):
        _download_wheels(root / WHEELS[1:])


def _install_debian(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    acquire = root.parent / "apt.conf"
    acquire.write_text(machine.apt_configuration())
    try:
        run(
            [
                # What it mounts in the root goes with it, even when it is killed.
                "unshare",
                "--mount",
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                # The lists stay, so that a host can install at once.
                "--skip=cleanup/apt/lists",
                f"--aptopt={acquire}",
                RELEASE,
                str(root),
                *(str(file) for file in machine.apt_sources(RELEASE)),
            ]
        )
    finally:
        acquire.unlink()
    machine.copy_apt_trust(root)


def _settle(root: Path) -> None:
    # Keys of the image would be the same on every host.
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    (root / "etc/ssh/sshd_config.d/lab.conf").write_text(
        "PasswordAuthentication no\nHostKey /etc/ssh/ssh_host_ed25519_key\n"
    )
    for unit in MASKED_UNITS:
        mask = root / "etc/systemd/system" / unit
        mask.unlink(missing_ok=True)
        mask.symlink_to("/dev/null")
    # A lab's disk need not survive a power loss of this machine; installing is twice as fast.
    (root / "etc/dpkg/dpkg.cfg.d/lab").write_text("force-unsafe-io\n")
    # LXC sets the address before init starts; ifupdown must leave eth0 alone.
    (root / "etc/network/interfaces").write_text("auto lo\niface lo inet loopback\n")
    (root / "etc/fstab").write_text("")
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)


def _download_wheels(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    arch = platform.machine()
    platforms = [f"--platform={tag}_{arch}" for tag in ("manylinux2014", "manylinux_2_28")]
    # With this machine's pip: the image has none, and must not have one.
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    command = [*pip, *platforms, f"--python-version={RELEASE_PYTHON}", f"--dest={directory}"]
    try:
        run([*command, *DOWNLOADED_WHEELS], env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"})
    except LabError as error:
        # It only saves time: hosts can download them again.
        print(f"wheels left out: {str(error).splitlines()[-1].strip()}", end=" ")
