"""From raw inventory data to a checked cluster, or the list of all that is wrong with it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from tierstack.model.check_hosts import check_hosts
from tierstack.model.check_project import check_project
from tierstack.model.check_scheme import check_scheme
from tierstack.model.check_settings import check_settings, readable_sites
from tierstack.model.cluster import (
    FIRST_SITE_UID,
    OUTSIDE,
    Cluster,
    Site,
    derive_flows,
    with_implied_tiers,
)
from tierstack.model.errors import InventoryError, Mistake
from tierstack.model.names import owner_of_site_name
from tierstack.model.ports import check_ports
from tierstack.model.raw import RawInventory
from tierstack.model.settings import Settings, SiteSettings
from tierstack.model.shell import quoted
from tierstack.model.sizing import check_capacity


def check(raw: RawInventory) -> Cluster:
    """
    Return the cluster that an inventory describes.

    Raises:
        InventoryError: with every mistake that could be found, sorted.
    """
    mistakes = list(raw.mistakes)
    hosts = with_implied_tiers(check_hosts(raw, mistakes))
    settings = check_settings(raw, mistakes)
    _check_tiers(raw, mistakes)
    sites = _sites(raw, settings, mistakes) if settings else ()
    if settings is None:
        for index, site in readable_sites(raw).items():
            _check_source(site, _source(raw, site), f"sites[{index}]", mistakes)
    if settings is None or mistakes:
        raise InventoryError(raw.path, mistakes)
    cluster = Cluster(
        name=raw.file.stem,
        inventory=raw.file,
        home=raw.home,
        hosts=hosts,
        sites=sites,
        settings=settings,
        flows=derive_flows(
            {tier for host in hosts for tier in host.tiers},
            settings,
            {host.ssh_port for host in hosts},
        ),
    )
    mistakes += check_capacity(cluster)
    mistakes += check_ports(cluster)
    mistakes += _check_clear_text(cluster)
    mistakes += _check_incoming(cluster)
    mistakes += _check_standbys(cluster)
    mistakes += _check_storage(cluster)
    mistakes += _check_files(cluster)
    mistakes += check_scheme(cluster)
    if mistakes:
        raise InventoryError(raw.path, mistakes)
    return cluster


def _check_tiers(raw: RawInventory, mistakes: list[Mistake]) -> None:
    example = 'write e.g. {0} = [("{0}1", {{"address": "10.0.0.{1}"}})]'
    for tier, number, why in (
        ("web", 11, "nothing serves the site without one"),
        ("db", 21, "the site keeps its data there"),
    ):
        if tier not in raw.groups:
            what = f"no {tier} host, and {why}; {example.format(tier, number)}"
            mistakes.append(Mistake(tier, what))
    if "media" not in raw.groups:
        if len(raw.groups.get("web", ())) > 1:
            what = (
                "no media host, and each of several web hosts would keep uploads of its own;"
                f" {example.format('media', 41)}"
            )
            mistakes.append(Mistake("media", what))
        if "storage" in raw.groups:
            what = f"nobody serves what lies there; {example.format('media', 41)}"
            mistakes.append(Mistake("storage", what))
    if len(raw.groups.get("storage", ())) > 1:
        what = "more than one storage host is not supported yet; write one"
        mistakes.append(Mistake("storage", what))


def _sites(raw: RawInventory, settings: Settings, mistakes: list[Mistake]) -> tuple[Site, ...]:
    sites = []
    if len(settings.sites) > 1:
        mistakes.append(Mistake("sites", "more than one site is not supported yet; write one"))
    for index, site in enumerate(settings.sites):
        where = f"sites[{index}]"
        if owner := owner_of_site_name(site.name):
            what = (
                f'"{site.name}" belongs to {owner}, and the site\'s account and database are called'
                f' as the site is; choose another, e.g. "{site.name[:19]}-site"'
            )
            mistakes.append(Mistake(f"{where}.name", what))
        if site.media_url == site.static_url:
            what = f'"{site.media_url}" is static_url as well; write another, e.g. "/uploads/"'
            mistakes.append(Mistake(f"{where}.media_url", what))
        source = _source(raw, site)
        _check_source(site, source, where, mistakes)
        uid = FIRST_SITE_UID + index if site.uid is None else site.uid
        sites.append(Site(settings=site, source=source, uid=uid))
    return tuple(sites)


def _source(raw: RawInventory, site: SiteSettings) -> Path:
    return (raw.home / Path(site.source).expanduser()).resolve()


def _check_source(site: SiteSettings, source: Path, where: str, mistakes: list[Mistake]) -> None:
    if not source.is_dir():
        mistakes.append(
            Mistake(
                f"{where}.source", f"{source} is not a directory; write where your project lies"
            )
        )
        return
    project = (source / site.project).resolve()
    if not project.is_relative_to(source):
        mistakes.append(
            Mistake(
                f"{where}.project", f'"{site.project}" leads out of {source}; write a folder in it'
            )
        )
    elif not (project / "manage.py").is_file():
        found = sorted(path.parent.relative_to(source) for path in source.glob("*/manage.py"))
        hint = f'project = "{found[0]}"' if found else "the folder that holds it"
        mistakes.append(Mistake(f"{where}.project", f"no manage.py in {project}; write {hint}"))
    if not (source / site.requirements).is_file():
        mistakes.append(
            Mistake(
                f"{where}.requirements",
                f"no {site.requirements} in {source}; write the name of the file that pip should read",
            )
        )
    _check_document_root(site, source, where, mistakes)
    mistakes += check_project(site, source, where)


def _check_document_root(
    site: SiteSettings, source: Path, where: str, mistakes: list[Mistake]
) -> None:
    """Refuse a directory that is none, or that holds the site's code: visitors read what is in it."""
    if site.document_root is None:
        if site.file_extensions:
            what = (
                "file_extensions says which files are served, and nothing says from where; write the"
                ' directory of your project that holds them, e.g. "public"'
            )
            mistakes.append(Mistake(f"{where}.document_root", what))
        return
    if not site.file_extensions:
        what = f'nothing in "{site.document_root}" is served without; write e.g. ["ico", "txt"]'
        mistakes.append(Mistake(f"{where}.file_extensions", what))
    root = (source / site.document_root).resolve()
    problem = ""
    if not root.is_relative_to(source) or not root.is_dir():
        problem = f'"{site.document_root}" is not a directory in {source}'
    elif source.is_relative_to(root) or next(root.rglob("*.py"), None):
        problem = f'"{site.document_root}" holds code of the project'
    if problem:
        what = f"{problem}; write one that holds files for visitors only"
        mistakes.append(Mistake(f"{where}.document_root", what))


def _check_clear_text(cluster: Cluster) -> list[Mistake]:
    """Refuse public addresses where the tiers speak in clear text, without the user's word for it."""
    if cluster.settings.base.allow_public_clear_text:
        return []
    mistakes = []
    for host in cluster.hosts:
        read = [
            flow.purpose
            for flow in cluster.flows
            if flow.clear_text
            and flow.target in host.tiers
            and any(peer != host for peer in cluster.tier(flow.source))
        ]
        if read and ipaddress.ip_address(host.address).is_global:
            what = (
                f"{host.address} is a public address, where others could read {' and '.join(read)};"
                " write one of a private network, or base.allow_public_clear_text = True if nobody"
                " else has part in this one"
            )
            mistakes.append(Mistake(f"{host.line}.address", what))
    return mistakes


def _check_incoming(cluster: Cluster) -> list[Mistake]:
    """Refuse to let everybody in where a flow lets in the hosts of a tier."""
    inner = {
        (flow.protocol, flow.port): flow for flow in cluster.flows if flow.source not in OUTSIDE
    }
    mistakes = []
    for text, way in zip(
        cluster.settings.base.incoming, cluster.settings.base.ways_in, strict=True
    ):
        flow = inner.get((way.protocol, way.port))
        everybody = way.address is None or way.address.endswith("/0")
        if flow and everybody:
            what = (
                f'"{text}" lets everybody in where {flow.source} hosts come for {flow.purpose}; write'
                f' from whom, e.g. "{way.protocol} {way.port} from 203.0.113.9"'
            )
            mistakes.append(Mistake("base.incoming", what))
    return mistakes


def _check_standbys(cluster: Cluster) -> list[Mistake]:
    standbys, allowed = len(cluster.tier("db")) - 1, cluster.settings.db.max_standbys
    if standbys <= allowed:
        return []
    what = (
        f"the inventory has {standbys} standbys, and the primary takes {allowed}; write {standbys}"
    )
    return [Mistake("db.max_standbys", what)]


def _check_storage(cluster: Cluster) -> list[Mistake]:
    if not cluster.tier("storage") or cluster.settings.media.share == "nfs":
        return []
    what = (
        f'"{cluster.settings.media.share}" is for MEDIA_ROOT on a media host, and a storage host is'
        ' an NFS server; write "nfs", or delete the group storage'
    )
    return [Mistake("media.share", what)]


def _check_files(cluster: Cluster) -> list[Mistake]:
    certificate = cluster.settings.balancer.certificate
    if certificate is None:
        return []
    path = cluster.home / Path(certificate).expanduser()
    if not path.is_file():
        return [
            Mistake(
                "balancer.certificate",
                f"{path} is not a file; write where the PEM file with chain and key lies",
            )
        ]
    for site in cluster.sites:
        if path.resolve().is_relative_to(site.source):
            what = f"{path} lies in the source of {site.name}, which goes to every web host; move it out"
            return [Mistake("balancer.certificate", what)]
    if path.stat().st_mode & 0o007:
        what = f"{path} holds a private key and can be read by everybody; type: chmod 600 {quoted(path)}"
        return [Mistake("balancer.certificate", what)]
    text = path.read_text(encoding="utf-8", errors="replace")
    if "BEGIN CERTIFICATE" not in text or "PRIVATE KEY" not in text:
        return [
            Mistake(
                "balancer.certificate",
                f"{path} must hold the certificate chain and its private key;"
                " write one file from both: cat fullchain.pem privkey.pem > site.pem",
            )
        ]
    return []
