"""MEDIA_ROOT lies on the first media host and is mounted on the web hosts, over NFS or sshfs.

Two ends: `export` on the media host, `mount` on a web host. A dead media host makes file operations
fail within a few seconds; nothing waits for it, and the mount comes back with it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import pyinfra
from pyinfra.api.facts import FactBase

from tierstack.model import Cluster, Host, Site
from tierstack.operations.config import Absent, Entry, File, Link, Unit, config, template
from tierstack.secrets import Secrets, ssh_public_key

#: `softerr`: an operation fails instead of waiting for ever; `timeo` is in tenths of a second.
#: `sync`: write() itself reports the failure. What fstab calls nofail, x-systemd.automount and
#: x-systemd.mount-timeout are the units' own WantedBy=, .automount and TimeoutSec=.
#: Source: nfs(5), systemd.mount(5).
NFS_OPTIONS = "vers=4.2,softerr,timeo=10,retrans=2,sync,nosuid,nodev,noexec,_netdev"

#: `dir_cache=no`: what one web host uploads, the others see. Source: sshfs(1).
SSHFS_OPTIONS = "allow_other,default_permissions,nosuid,nodev,noexec,dir_cache=no"

#: NFSv4 needs no port mapper and no lock daemon; Debian's packages start both at boot.
_UNUSED_BY_NFS4 = ("rpcbind.service", "rpcbind.socket", "rpc-statd.service")

#: The SSH server that shows MEDIA_ROOT and nothing else.
_SSHFS_EXPORT = "tierstack-share.service"


def exporter(cluster: Cluster) -> Host:
    """Return the media host whose disk holds MEDIA_ROOT."""
    return cluster.tier("media")[0]


def port(cluster: Cluster) -> int:
    """Return the port that web hosts mount MEDIA_ROOT from."""
    media = cluster.settings.media
    return media.sshfs_port if media.share == "sshfs" else 2049


def export(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Let the web hosts, and nobody else, mount MEDIA_ROOT of each site."""
    sources = cluster.allowed_sources("media", port(cluster))
    if cluster.settings.media.share == "nfs":
        config(
            name="Web hosts may mount MEDIA_ROOT over NFS",
            stamp="share-export",
            entries=[
                *_masked(_UNUSED_BY_NFS4),
                *_gone(_SSHFS_EXPORT),
                File(
                    "/etc/nfs.conf.d/tierstack.conf",
                    template("media/etc/nfs.conf.d/tierstack.conf.j2", address=host.address),
                    needs="restart",
                ),
                File(
                    "/etc/exports.d/tierstack.exports",
                    template(
                        "media/etc/exports.d/tierstack.exports.j2",
                        sites=cluster.sites,
                        sources=sources,
                    ),
                ),
            ],
            then=_stopped([*_UNUSED_BY_NFS4, _SSHFS_EXPORT]),
            units=[Unit("nfs-server.service", reload="exportfs -ra")],
        )
        return
    config(
        name="Web hosts may mount MEDIA_ROOT over sshfs",
        stamp="share-export",
        entries=[
            Absent("/etc/exports.d/tierstack.exports"),
            File(
                "/etc/tierstack/share_host_key",
                _key(secrets[f"share.{host.name}_host_key"]),
                mode="600",
            ),
            # sshd reads it at each login.
            File(
                "/etc/tierstack/share_authorized_keys",
                template(
                    "media/etc/tierstack/share_authorized_keys.j2",
                    sources=sources,
                    public_key=ssh_public_key(secrets["share.client_key"]),
                ),
            ),
            File(
                "/etc/tierstack/share_sshd_config",
                template(
                    "media/etc/tierstack/share_sshd_config.j2",
                    address=host.address,
                    port=cluster.settings.media.sshfs_port,
                    sites=cluster.sites,
                ),
            ),
            File(
                f"/etc/systemd/system/{_SSHFS_EXPORT}",
                template(
                    "media/etc/systemd/system/tierstack-share.service.j2", sites=cluster.sites
                ),
                needs="restart",
            ),
        ],
        # In place, not staged: sshd also judges the key that the file names, and its mode.
        check="mkdir -p /run/sshd && sshd -t -f /etc/tierstack/share_sshd_config",
        then="if command -v exportfs >/dev/null; then exportfs -ra; fi",
        units=[Unit(_SSHFS_EXPORT)],
    )


class FileSystems(FactBase[list[str]]):
    """The kind of file system of each path; "" for one that gives no answer within seconds."""

    def command(self, paths: list[str]) -> str:
        # In a process that may be killed: a look at a dead mount waits for it.
        return "; ".join(
            f"timeout -s KILL 5 stat -f -c %T {shlex.quote(path)} 2>/dev/null || echo"
            for path in paths
        )

    def process(self, output: list[str]) -> list[str]:
        return output


def not_mounted(paths: list[str]) -> str:
    """Return what is missing until these directories are mounts that answer, or ""."""
    if not paths:
        return ""
    kinds = pyinfra.host.get_fact(FileSystems, paths=paths) or []
    for path, kind in zip_longest(paths, kinds, fillvalue=""):
        if kind not in ("nfs", "nfs4", "fuse", "fuseblk"):
            return f"MEDIA_ROOT {path} is not mounted; look: systemctl status '*media*'"
    return ""


def mount(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Mount MEDIA_ROOT of each site on a web host; on the host that exports it, it is there already."""
    server = exporter(cluster)
    if host == server:
        return
    if cluster.settings.media.share == "nfs":
        sshfs_units = [sshfs_unit(site) for site in cluster.sites]
        entries = [*_masked(_UNUSED_BY_NFS4), *_gone(*sshfs_units)]
        for site in cluster.sites:
            name = unit_name(site.media_root)
            values: dict[str, Any] = {
                "site": site,
                "server": server.address,
                "options": NFS_OPTIONS,
            }
            entries += [
                File(
                    f"/etc/systemd/system/{name}.{kind}",
                    template(f"web/etc/systemd/system/media.{kind}.j2", **values),
                    needs="restart",
                )
                for kind in ("mount", "automount")
            ]
        config(
            name="MEDIA_ROOT is mounted over NFS",
            stamp="share",
            entries=entries,
            check=" && ".join(_nothing_hidden(site, server) for site in cluster.sites),
            then=_stopped([*_UNUSED_BY_NFS4, *sshfs_units]),
            units=[
                Unit(
                    f"{name}.automount",
                    restart=f"systemctl stop {name}.automount {name}.mount"
                    f" && systemctl start {name}.automount",
                )
                for name in (unit_name(site.media_root) for site in cluster.sites)
            ],
        )
        return
    sshfs_port = cluster.settings.media.sshfs_port
    automounts = [f"{unit_name(site.media_root)}.automount" for site in cluster.sites]
    config(
        name="MEDIA_ROOT is mounted over sshfs",
        stamp="share",
        # The mount points are no entries: a look at a mount whose server is dead would wait for it.
        # The services make them.
        entries=[
            *_gone(*automounts, *(name.replace(".automount", ".mount") for name in automounts)),
            File(
                "/etc/tierstack/share_client_key",
                _key(secrets["share.client_key"]),
                mode="600",
                needs="restart",
            ),
            File(
                "/etc/tierstack/share_known_hosts",
                template(
                    "web/etc/tierstack/share_known_hosts.j2",
                    server=server.address,
                    port=sshfs_port,
                    public_key=ssh_public_key(secrets[f"share.{server.name}_host_key"]),
                ),
                needs="restart",
            ),
            File(
                "/etc/tierstack/share_ssh_config",
                template("web/etc/tierstack/share_ssh_config.j2", port=sshfs_port),
                needs="restart",
            ),
            *(
                File(
                    f"/etc/systemd/system/{sshfs_unit(site)}",
                    template(
                        "web/etc/systemd/system/tierstack-media.service.j2",
                        site=site,
                        server=server.address,
                        port=sshfs_port,
                        options=SSHFS_OPTIONS,
                    ),
                    needs="restart",
                )
                for site in cluster.sites
            ),
        ],
        check=" && ".join(_nothing_hidden(site, server) for site in cluster.sites),
        then=_stopped(automounts),
        units=[Unit(sshfs_unit(site)) for site in cluster.sites],
    )


def sshfs_unit(site: Site) -> str:
    """Return the service that mounts a site's MEDIA_ROOT over sshfs."""
    return f"tierstack-media-{site.name}.service"


def unit_name(path: str) -> str:
    r"""
    Return the name that systemd wants for the mount unit of a path, without its ending.

    `/srv/my-site/media` is `srv-my\x2dsite-media`. Source: systemd.unit(5), "String escaping".
    """

    plain = path.strip("/")
    return "".join(
        "-" if character == "/" else _escaped(character, first=index == 0)
        for index, character in enumerate(plain)
    )


def _escaped(character: str, first: bool) -> str:
    if character.isascii() and (character.isalnum() or character in (":_" if first else ":_.")):
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode())


def _masked(units: Sequence[str]) -> list[Entry]:
    return [Link(f"/etc/systemd/system/{unit}", "/dev/null", needs="restart") for unit in units]


def _gone(*units: str) -> list[Entry]:
    """Return what takes away the units of the other kind of share, where it was that one before."""
    return [
        Absent(f"/etc/systemd/system/{directory}{unit}", needs="restart")
        for unit in units
        for directory in ("multi-user.target.wants/", "")
    ]


def _stopped(units: Sequence[str]) -> str:
    # Not an error where a unit is not there.
    return f"systemctl stop {' '.join(units)} 2>/dev/null || true"


def _nothing_hidden(site: Site, server: Host) -> str:
    """Return a shell command that fails if a mount would hide files; asks a mount nothing."""
    path = site.media_root
    return (
        f"if ! grep -q ' {path} ' /proc/self/mountinfo && [ -e {path} ]"
        f' && [ -n "$(find {path} -mindepth 1 -print -quit)" ]; then'
        f" echo '{path} holds files of this host alone, which the share would hide;"
        f" move them to {path} on {server.name} and leave {path} here empty'; exit 1; fi"
    )


def _key(text: str) -> bytes:
    # OpenSSH does not read a key whose last line does not end.
    return text.strip().encode() + b"\n"
