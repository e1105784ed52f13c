"""lighttpd on the media hosts: uploads and static files from local disk.

Source: chapter, "Use a separate media server"; lighttpd 1.4 manual, "Configuration Options".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pyinfra
from pyinfra.api.facts import FactBase

from roles import copies, share
from tierstack import hosts
from tierstack.model import Cluster, Host, Site
from tierstack.operations.config import Directory, File, Unit, config, template
from tierstack.operations.static import only_release, static_release
from tierstack.secrets import Secrets

#: The path that balancers ask; it answers 200 under every host name.
HEALTH_PATH = "/-/media-health"

#: How long browsers may keep a static file whose name holds no hash, in seconds.
STATIC_MAX_AGE_S = 3600

#: Files that lighttpd and its connections may hold open.
_MAX_FDS = 8192

#: How long a download may go on after a reload, in seconds.
_DOWNLOAD_S = 3600

#: Uploads that a browser shows or plays but never runs, by ending. PDF is among them since browsers'
#: own viewers do not work in a sandbox.
_INERT = (
    "avif", "bmp", "flac", "gif", "ico", "jpeg", "jpg", "m4a", "m4v", "mov", "mp3", "mp4", "oga",
    "ogg", "ogv", "opus", "pdf", "png", "tif", "tiff", "txt", "wav", "webm", "webp",
)  # fmt: skip
INERT = rf"(?i)\.(?:{'|'.join(_INERT)})$"

#: Names that Django gives static files by what is in them. One of digits only may be a date.
HASHED = r"\.(?=[0-9]*[a-f])[0-9a-f]{12}(?:\.[^/.]+)?$"

#: Files that nobody gets: those whose names begin with a dot, such as uploads on their way and deleted
#: ones that are still open (.nfs*, .fuse_hidden*); and what lies in folders that keep what was. Other
#: folders with a dot, such as .thumbnails, hold what sites show.
HIDDEN = r"(?i)/\.(?:[^/]*$|(?:git|hg|svn|bzr|zfs|~tmp~|(?:trash|snapshot|rsync|tierstack)[^/]*)/)"

#: As above, of static files: all of it, marks of releases among them.
_HIDDEN_STATIC = r"/\."

#: What lighttpd refuses in a path by its `http-parseopts`: slashes and control characters that are
#: encoded, and parts that are empty, "." or "..".
_ODD = r"(?:%(?:2[fF]|[01][0-9a-fA-F]|7[fF])|/(?:\.|%2[eE]){0,2}/|/(?:\.|%2[eE]){1,2}[ ?])"


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Serve media and static files on the host's cluster address."""
    share.mount(cluster, host, secrets)
    copies.deploy(cluster, host, secrets)
    config(
        name="lighttpd serves media and static files",
        stamp="media",
        entries=[
            *_directories(cluster),
            File("/etc/tierstack/lighttpd.conf", configuration(cluster, host)),
            File(
                "/etc/systemd/system/lighttpd.service.d/tierstack.conf",
                template(
                    "media/etc/systemd/system/lighttpd.service.d/tierstack.conf.j2",
                    max_fds=_MAX_FDS,
                ),
                needs="restart",
            ),
        ],
        check_staged="lighttpd -tt -f $STAGE/etc/tierstack/lighttpd.conf",
        units=[Unit("lighttpd.service")],
    )


def configuration(cluster: Cluster, host: Host) -> bytes:
    """Return lighttpd's configuration on one media host."""
    return template(
        "media/etc/tierstack/lighttpd.conf.j2",
        address=host.address,
        port=cluster.settings.media.port,
        max_fds=_MAX_FDS,
        download_s=_DOWNLOAD_S,
        sites=_virtual_hosts(cluster),
    )


def is_new(cluster: Cluster) -> bool:
    """Return whether visitors get files from web hosts until now: these had been deployed, no media host had."""
    had = {
        tier: any(
            tier in hosts.facts(host.name)["stamps"]
            for host in cluster.tier(tier)
            if hosts.in_this_run(host.name)
        )
        for tier in ("balancer", "media")
    }
    return bool(cluster.tier("media")) and had["balancer"] and not had["media"]


def static_files(cluster: Cluster, host: Host) -> None:
    """
    Bring the current release's static files to where they are served, beside those of earlier ones:
    to media hosts, from the web host that collected them, or to its own directory of them.

    Where no media host has a part in the run, web hosts refuse to serve another release.
    """
    # Imported late: the web role asks this one where its files go.
    from roles.web import release

    media_hosts = [node.name for node in cluster.tier("media")]
    if media_hosts and host.name not in media_hosts:
        if not any(hosts.in_this_run(name) for name in media_hosts):
            for site in pyinfra.host.loop(cluster.sites):
                only_release(
                    name=f"The release of {site.name} is one whose static files are served",
                    current=f"{site.home}/current",
                    path=release(cluster, site).path,
                    media_host=media_hosts[0],
                )
        return
    for site in pyinfra.host.loop(cluster.sites):
        current = release(cluster, site)
        static_release(
            name=f"Static files of {site.name} are those of the release, and of earlier ones",
            release=current.id,
            source_host=cluster.tier("web")[0].name,
            source=current.static,
            target=site.static_root,
        )
    if host.name in media_hosts:
        # Until it has left, the old site's directory is what a name that both have leads to.
        for old, site in pyinfra.host.loop(list(product(cluster.leaving, cluster.sites))):
            current = release(cluster, site)
            static_release(
                name=f"Static files of {site.name} are beside those of {old.name}, which leaves",
                release=current.id,
                source_host=cluster.tier("web")[0].name,
                source=current.static,
                target=old.static_root,
            )


class MediaAnswers(FactBase[str]):
    """What is missing until lighttpd answers, or an empty string."""

    def command(self, address: str, port: int, path: str) -> str:
        return f"python3 - {address} {port} {path} 2>&1 | tail -n 1"

    @staticmethod
    def default() -> str:
        return ""

    def process(self, output: list[str]) -> str:
        return output[-1] if output else ""


_ASK = """
import sys, urllib.request
address, port, path = sys.argv[1:]
try:
    urllib.request.urlopen("http://%s:%s%s" % (address, port, path), timeout=3).read()
except OSError as error:
    sys.exit("lighttpd does not answer on %s:%s: %s" % (address, port, error))
"""


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where there is nothing to ask."""
    if "media" not in host.tiers:
        return None
    mounts = [site.media_root for site in cluster.sites if cluster.mounts_share(host)]
    copy = copies.answers(cluster, host)

    def check() -> str:
        said: str = pyinfra.host.get_fact(
            MediaAnswers,
            address=host.address,
            port=cluster.settings.media.port,
            path=HEALTH_PATH,
            _stdin=_ASK,
        )
        return said or share.not_mounted(mounts) or (copy() if copy else "")

    return check


def files(cluster: Cluster, site: Site) -> dict[str, Any]:
    """Return what a web server needs to know that serves a site's files in a media host's place."""
    directories = _served(cluster, site)
    urls = "|".join(directory["url_pattern"].removesuffix("/") for directory in directories)
    return {"directories": directories, "odd_requests": rf"^\w+ (?:{urls})(?=/)[^ ?]*?{_ODD}"}


def _directories(cluster: Cluster) -> list[Directory | File]:
    """Return what lighttpd serves from; what lies in the sites' directories is nobody's but theirs."""
    root = "/etc/tierstack/media"
    found: list[Directory | File] = [
        Directory(root),
        Directory(f"{root}/-"),
        File(f"{root}{HEALTH_PATH}", b"ok\n"),
        File(f"{root}/-/error.html", template("media/etc/tierstack/media/-/error.html.j2")),
    ]
    for site in cluster.known_sites:
        found += [
            Directory(site.home),
            Directory(site.static_root),
        ]
    return found


def _virtual_hosts(cluster: Cluster) -> list[dict[str, Any]]:
    """
    Return the sites for lighttpd, of which the last one counts where several patterns fit a name.

    A site that leaves keeps its names until the pages of others are there, and has URLs of theirs
    that it does not use itself.
    """
    kept = {domain for old in cluster.leaving for domain in old.settings.domains}
    others = [served for site in cluster.sites for served in _served(cluster, site)]
    found = []
    for site in cluster.sites:
        # lighttpd takes no condition twice.
        domains = [domain for domain in site.settings.domains if domain not in kept]
        if domains:
            found.append({"hosts": host_pattern(domains), "directories": _served(cluster, site)})
    for old in cluster.leaving:
        own = _served(cluster, old)
        urls = {directory["url"] for directory in own}
        own += [directory for directory in others if directory["url"] not in urls]
        found.append({"hosts": host_pattern(old.settings.domains), "directories": _in_order(own)})
    return found


def _served(cluster: Cluster, site: Site) -> list[dict[str, Any]]:
    """Return a site's directories of files, by URL, and what is said of the files in them."""
    settings = site.settings
    found = {
        settings.media_url: {
            "path": site.media_root,
            "max_age_s": cluster.settings.media.max_age_s,
            "inert_names": INERT,
            "hidden": HIDDEN,
            "hashed_names": "",
        },
        settings.static_url: {
            "path": site.static_root,
            "max_age_s": STATIC_MAX_AGE_S,
            "inert_names": "",
            "hidden": _HIDDEN_STATIC,
            "hashed_names": HASHED if settings.hashed_static else "",
        },
    }
    return _in_order(
        [
            {**directory, "url": url, "url_pattern": re.escape(url)}
            for url, directory in found.items()
        ]
    )


def _in_order(directories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort with the longer URL first: one may lie below the other, and the first that fits counts."""
    found = sorted(directories, key=lambda directory: (-len(directory["url"]), directory["url"]))
    return [
        {**directory, "or_else": "else " if number else ""}
        for number, directory in enumerate(found)
    ]


def host_pattern(domains: list[str]) -> str:
    """
    Return a regular expression for the Host headers of a site, with or without a port.

    Args:
        domains: names such as `www.example.com` or `*.example.com`, in small letters as lighttpd
            normalises the header.
    """
    names = [domain.replace(".", r"\.").replace("*", "[^.:]+") for domain in domains]
    return f"^(?:{'|'.join(names)})(?::[0-9]+)?$"
