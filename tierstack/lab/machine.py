"""What a lab host takes over from this machine: its package sources, its trust, its way out."""

import configparser
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tierstack.lab.commands import LabError, run, step

# A command that each package brings, to see without apt whether it is there.
TOOLS = {
    "lxc-start": "lxc",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "gpg": "gpg",  # mmdebstrap asks it which key signs Debian, on a machine that is not Debian 12
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
}
DEBIAN_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def install_tools() -> None:
    """
    Install the programs that the lab needs and this machine lacks.

    Raises:
        LabError: there is no apt-get, or it failed.
    """
    missing = [package for command, package in TOOLS.items() if not shutil.which(command)]
    if not DEBIAN_KEYRING.exists():
        missing.append("debian-archive-keyring")  # Ubuntu has it packaged, not installed
    if missing:
        install_packages(missing)


def install_packages(names: Sequence[str]) -> None:
    """
    Install packages on this machine, and start no service of theirs.

    Args:
        names: Debian's names of the packages.

    Raises:
        LabError: there is no apt-get, or it failed.
    """
    if not shutil.which("apt-get"):
        raise LabError(
            f"The lab needs {', '.join(names)}, and this machine has no apt-get; "
            "install them, or use a Debian or Ubuntu machine"
        )
    with step(f"installing {', '.join(names)}"):
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=env)
        with _services_stay_off():
            run(["apt-get", "install", "-y", "-q", "--no-install-recommends", *names], env=env)


@contextmanager
def _services_stay_off() -> Iterator[None]:
    # LXC's package would start a bridge of its own with a subnet of its own, and wait half a
    # minute for it. dpkg asks this file first; one of the administrator's is left alone.
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


def kernel_has_nfs() -> bool:
    """Whether this machine's kernel, which lab hosts share, has an NFS client and server."""
    filesystems = Path("/proc/filesystems").read_text().split()
    return all(
        name in filesystems or _can_load(module)
        for name, module in (("nfs4", "nfsv4"), ("nfsd",) * 2)
    )


def load_nfs() -> None:
    """Load the NFS modules where there are any: a container cannot do it itself."""
    if shutil.which("modprobe"):
        run(["modprobe", "-a", "-q", "nfsv4", "nfsd"], check=False)


def raise_inotify_limit() -> None:
    """Let many hosts run: all share root's inotify instances, and 128 serve about 15 systemds."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < 4096:
        limit.write_text("4096")


def _can_load(module: str) -> bool:
    # /sbin is not on every user's PATH.
    modprobe = shutil.which("modprobe", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return modprobe is not None and (
        run([modprobe, "--dry-run", "--quiet", module], check=False).returncode == 0
    )


def apt_sources(release: str, apt: Path = Path("/etc/apt")) -> list[Path]:
    """
    The files in which this machine names sources of that Debian release; none on another system.

    Args:
        release: the code name, e.g. "bookworm".
        apt: apt's configuration directory.
    """
    files = [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]
    return [
        file
        for file in files
        if file.suffix in (".list", ".sources")
        and file.is_file()
        and any(
            release in line and not line.lstrip().startswith("#")
            for line in file.read_text().splitlines()
        )
    ]


def apt_configuration() -> str:
    """
    How this machine's apt reaches its sources (proxies, certificates, checks), as apt.conf text.

    Only that: its hooks call programs that a host lacks, and some delete what was downloaded.
    """
    unwanted = ("Acquire::IndexTargets", "Acquire::cdrom", "Acquire::Changelogs")
    lines = [
        line
        for line in run(["apt-config", "dump"]).stdout.splitlines()
        if line.startswith("Acquire::") and not line.startswith(unwanted)
    ]
    return "\n".join(lines) + "\n"


def apt_proxies(environ: Mapping[str, str] = os.environ) -> str:
    """The proxies that apt takes from this process's environment, as apt.conf text."""
    lines = []
    for scheme in ("http", "https"):
        proxy = environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY")
        if proxy:
            lines.append(f'Acquire::{scheme}::Proxy "{proxy}";\n')
    return "".join(lines)


@contextmanager
def way_out(root: Path) -> Iterator[None]:
    """
    Give an image this machine's name servers and proxies while packages are fetched in it.

    Both may be others tomorrow, so every host gets its own when it is made.

    Args:
        root: the root directory of the image.
    """
    resolv, proxies = root / "etc/resolv.conf", root / "etc/apt/apt.conf.d/91proxies"
    proxies.parent.mkdir(parents=True, exist_ok=True)
    resolv.unlink(missing_ok=True)
    resolv.write_text(resolv_conf())
    proxies.write_text(apt_proxies())
    try:
        yield
    finally:
        resolv.unlink()
        proxies.unlink()


def copy_apt_trust(root: Path) -> None:
    """
    Copy this machine's archive keys and its logins for archives.

    Args:
        root: the root directory of the image.
    """
    for directory in ("/etc/apt/keyrings", "/etc/apt/trusted.gpg.d", "/usr/share/keyrings"):
        if Path(directory).is_dir():
            shutil.copytree(directory, root / directory[1:], dirs_exist_ok=True)
    for name in ("/etc/apt/trusted.gpg", "/etc/apt/auth.conf"):
        if Path(name).is_file():
            shutil.copy2(name, root / name[1:])
    if Path("/etc/apt/auth.conf.d").is_dir():
        shutil.copytree("/etc/apt/auth.conf.d", root / "etc/apt/auth.conf.d", dirs_exist_ok=True)


def copy_certificates(root: Path) -> None:
    """
    Make the image trust what this machine trusts.

    Args:
        root: the root directory of the image, with ca-certificates installed.
    """
    local = "/usr/local/share/ca-certificates"
    if Path(local).is_dir():
        shutil.copytree(local, root / local[1:], dirs_exist_ok=True)
    run(["chroot", str(root), "update-ca-certificates"])
    # What was added to /etc/ssl/certs by other ways than Debian's comes with the bundle.
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.is_file():
        shutil.copyfile(bundle, root / "etc/ssl/certs/ca-certificates.crt")


def pip_configuration(
    wheels: str,
    environ: Mapping[str, str] = os.environ,
    files: tuple[Path, ...] = (
        Path("/etc/pip.conf"),
        Path("~/.pip/pip.conf").expanduser(),
        Path("~/.config/pip/pip.conf").expanduser(),
    ),
) -> str:
    """
    How this machine's pip reaches its packages, as the text of one pip.conf.

    Written to a file, because a host's services and site accounts have no such environment.

    Args:
        wheels: a directory in the host with wheels that were already downloaded.
        environ: where pip's PIP_… settings are looked up.
        files: pip's own configuration files, later ones win.
    """
    reach = (
        "index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "cert",
        "client-cert", "timeout", "default-timeout", "retries",
    )  # fmt: skip
    parser = configparser.RawConfigParser()
    parser.read(file for file in files if os.access(file, os.R_OK))
    found = dict(parser["global"]) if parser.has_section("global") else {}
    for key in reach:
        value = environ.get(f"PIP_{key.replace('-', '_').upper()}")
        if value:
            found[key] = value
    proxy = environ.get("https_proxy") or environ.get("HTTPS_PROXY")
    if proxy:
        found.setdefault("proxy", proxy)
    for key in ("index-url", "extra-index-url", "find-links"):
        # Packages in a directory of this machine are not in the host.
        far = [url for url in found.pop(key, "").split() if url.startswith(("http://", "https://"))]
        if key == "find-links":
            far.insert(0, wheels)
        if far:
            found[key] = "\n    ".join(far)
    lines = [f"{key} = {found[key]}" for key in reach if key in found]
    return "\n".join(["[global]", *lines, "disable-pip-version-check = 1", ""])


def resolv_conf(
    files: tuple[Path, ...] = (
        Path("/etc/resolv.conf"),
        Path("/run/systemd/resolve/resolv.conf"),
    ),
) -> str:
    """
    The first resolv.conf of this machine whose name servers a host can reach.

    Args:
        files: where to look, in this order.

    Raises:
        LabError: all name servers are loopback addresses, which lead nowhere in a host.
    """
    for file in files:
        lines = file.read_text().splitlines() if file.is_file() else []
        loopback = re.compile(r"nameserver\s+(127\.|::1)")
        kept = [line for line in lines if not loopback.match(line)]
        if any(line.startswith("nameserver") for line in kept):
            return "\n".join(kept) + "\n"
    raise LabError(
        f"{files[0]} names no server that a lab host can reach (none, or only loopback addresses); "
        "add a `nameserver` line with an address of your network"
    )
