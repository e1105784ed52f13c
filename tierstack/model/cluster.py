"""The validated cluster: hosts, sites, tiers, and the flows that follow from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tierstack.model.settings import Settings, SiteSettings

TIERS = ("balancer", "web", "db", "cache", "storage", "media")

#: Sources of flows that are no tiers: anybody, and whoever runs the deploy.
OUTSIDE = ("internet", "admin")

#: What systemd runs on a host of each tier, as Debian calls it.
UNITS = {
    "balancer": "haproxy.service",
    "web": "apache2.service",
    "db": "postgresql@15-main.service",
    "cache": "memcached.service",
    "storage": "nfs-server.service",
    "media": "lighttpd.service",
}

#: First user number for sites' accounts. Fixed numbers keep ownership right on the NFS share,
#: and 5800.. lies in the range that neither Debian's adduser nor systemd hands out first.
FIRST_SITE_UID = 5800


@dataclass(frozen=True)
class Host:
    """
    One host.

    Args:
        name: its name in the inventory.
        address: its IPv4 address inside the cluster.
        tiers: the tiers it belongs to, in the order of `TIERS`.
        line: where it stands in the inventory, as messages name it: "web[1]".
        ssh_port: where its SSH server listens; the firewall keeps it open.
        memory_mb: memory to plan with, in MiB; None until the host was asked.
    """

    name: str
    address: str
    tiers: tuple[str, ...]
    line: str = ""
    ssh_port: int = 22
    memory_mb: int | None = None


@dataclass(frozen=True)
class Site:
    """One Django site and the names that follow from its own."""

    settings: SiteSettings
    source: Path
    uid: int

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def account(self) -> str:
        """System account that owns the site's processes and uploads."""
        return self.settings.name

    @property
    def database(self) -> str:
        """Database and database role."""
        return self.settings.name.replace("-", "_")

    @property
    def home(self) -> str:
        """Its directory on web hosts."""
        return f"/srv/{self.name}"

    @property
    def config(self) -> str:
        """Directory of its generated settings and WSGI modules on web hosts."""
        return f"/etc/tierstack/sites/{self.name}"

    @property
    def media_root(self) -> str:
        """MEDIA_ROOT, the same path on web hosts and on media hosts."""
        return f"/srv/{self.name}/media"

    @property
    def static_root(self) -> str:
        """Where media hosts keep static files of this and earlier releases."""
        return f"/srv/{self.name}/static"


@dataclass(frozen=True)
class Flow:
    """
    A connection that the cluster needs: from every host of one tier to every host of another.

    Args:
        source: a tier, or "internet" (anybody), or "admin" (whoever runs the deploy).
        target: a tier, or "all".
        port: destination port.
        purpose: what it is for, in a few words.
        protocol: "tcp" or "udp".
        clear_text: whether somebody on the way could read it.
    """

    source: str
    target: str
    port: int
    purpose: str
    protocol: str = "tcp"
    clear_text: bool = False


@dataclass(frozen=True)
class Opening:
    """
    A port that a host's firewall opens, to come in or to go out.

    Args:
        port: destination port.
        protocol: "tcp" or "udp".
        peers: addresses and networks at the other end; None means anybody.
        purpose: what it is for, in a few words.
    """

    port: int
    protocol: str
    peers: tuple[str, ...] | None
    purpose: str


@dataclass(frozen=True)
class Cluster:
    """
    A checked inventory.

    Args:
        name: the inventory file's name without `.py`.
        inventory: the inventory file.
        home: the directory that holds `group_data/`; relative paths in settings start here.
        hosts: all hosts in inventory order.
        sites: all sites.
        settings: the settings with defaults filled in.
        flows: every connection that the cluster needs.
        leaving: sites that the hosts know and the inventory has no more; they serve until others do.
        found_home: name of the host that has MEDIA_ROOT, as the hosts said; "" until they were asked.
    """

    name: str
    inventory: Path
    home: Path
    hosts: tuple[Host, ...]
    sites: tuple[Site, ...]
    settings: Settings
    flows: tuple[Flow, ...] = ()
    found_home: str = ""
    leaving: tuple[Site, ...] = ()

    def host(self, name: str) -> Host:
        """Return the host of that name. Raises KeyError when there is none."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def tier(self, name: str) -> tuple[Host, ...]:
        """Return the hosts of a tier in inventory order, none if the inventory has no such group."""
        return tuple(host for host in self.hosts if name in host.tiers)

    @property
    def media_home(self) -> Host:
        """
        The host whose disk holds MEDIA_ROOT; until hosts were asked, where an empty cluster has it.

        Source: chapter, "Use a separate media server", and "you'd add an NFS server".
        """
        return self.host(self.found_home) if self.found_home else self.home_candidates[0]

    @property
    def home_candidates(self) -> tuple[Host, ...]:
        """The hosts that MEDIA_ROOT may lie on; the first one has it on an empty cluster."""
        return self.tier("storage") or self.tier("media") or self.tier("web")

    @property
    def copies(self) -> tuple[Host, ...]:
        """The media hosts that keep a copy of MEDIA_ROOT on their own disk, and serve it."""
        if self.tier("storage"):
            return ()
        return tuple(
            host
            for host in self.tier("media")
            if host != self.media_home and not self.mounts_share(host)
        )

    @property
    def exporter(self) -> Host | None:
        """The host that exports MEDIA_ROOT to others; None where the only web host has it."""
        return self.media_home if self.tier("storage") or self.tier("media") else None

    def mounts_share(self, host: Host) -> bool:
        """
        Whether a host mounts MEDIA_ROOT, as the flows say: web hosts write there.

        Media hosts serve from their own disk, unless a storage host has the files; then they read.
        """
        tier = "storage" if self.tier("storage") else "media"
        sources = self.allowed_sources(tier, self.settings.media.share_port)
        return host != self.exporter and host.address in sources

    def openings(self, host: Host) -> tuple[Opening, ...]:
        """
        Return the ports that `host` opens, and from whom.

        Source: the flows, and `base.incoming`; the firewall and the tests are made from this.
        """
        found = []
        for flow in self.flows:
            if flow.target not in host.tiers and flow.target != "all":
                continue
            if flow.source == "admin" and flow.port != host.ssh_port:
                continue  # Other hosts' SSH servers listen there.
            peers: tuple[str, ...] | None = None
            if flow.source in TIERS:
                peers = tuple(
                    sorted({peer.address for peer in self.tier(flow.source) if peer is not host})
                )
                if not peers:
                    continue
            found.append(Opening(flow.port, flow.protocol, peers, flow.purpose))
        for way in self.settings.base.ways_in:
            where = (way.address,) if way.address else None
            found.append(Opening(way.port, way.protocol, where, "base.incoming"))
        return tuple(dict.fromkeys(found))

    def exits(self, host: Host) -> tuple[Opening, ...] | None:
        """
        Return the ports of others that `host` may connect to; None means anything.

        Source: the flows, and `base.outgoing`.
        """
        ways_out = self.settings.base.ways_out
        if ways_out is None:
            return None
        found = []
        for flow in self.flows:
            targets = [peer for peer in self.tier(flow.target) if peer is not host]
            if flow.source in host.tiers and targets:
                peers = tuple(sorted(peer.address for peer in targets))
                found.append(Opening(flow.port, flow.protocol, peers, flow.purpose))
        for way in ways_out:
            where = (way.address,) if way.address else None
            found.append(Opening(way.port, way.protocol, where, "base.outgoing"))
        return tuple(dict.fromkeys(found))

    def allowed_sources(self, target: str, port: int) -> tuple[str, ...]:
        """Return the addresses that the flows let connect to `port` of a tier, sorted."""
        tiers = {flow.source for flow in self.flows if flow.target == target and flow.port == port}
        return tuple(sorted({host.address for tier in tiers for host in self.tier(tier)}))

    @property
    def known_sites(self) -> tuple[Site, ...]:
        """The inventory's sites, and after them those that are leaving."""
        return (*self.sites, *self.leaving)

    def without_leaving(self) -> Cluster:
        """Return the cluster as it is once the sites that are leaving have left."""
        return replace(self, leaving=())

    def with_media_home(self, name: str) -> Cluster:
        """Return the cluster with MEDIA_ROOT on the host of that name."""
        return replace(self, found_home=name)

    def with_memory(self, memory_mb: dict[str, int]) -> Cluster:
        """Return the cluster with the memory of hosts whose line says none, by host name, in MiB."""
        hosts = tuple(
            replace(host, memory_mb=host.memory_mb or memory_mb.get(host.name))
            for host in self.hosts
        )
        return replace(self, hosts=hosts)


def with_implied_tiers(hosts: tuple[Host, ...]) -> tuple[Host, ...]:
    """
    Return the hosts with the tiers that an inventory leaves out and the web hosts then make up for.

    Without a balancer they are the front door, and without a cache host memcached runs on them.

    Source: chapter, "Scaling": "Running on a single server" and the two arrangements after it.
    """
    there = {tier for host in hosts for tier in host.tiers}
    implied = {tier for tier in ("balancer", "cache") if tier not in there}
    return tuple(
        replace(host, tiers=tuple(tier for tier in TIERS if tier in implied or tier in host.tiers))
        if "web" in host.tiers
        else host
        for host in hosts
    )


def derive_flows(
    tiers: set[str], settings: Settings, ssh_ports: Collection[int] = (22,)
) -> tuple[Flow, ...]:
    """
    Return the connections that an arrangement needs.

    Args:
        tiers: the tiers that have hosts.
        settings: ports and the media share.
        ssh_ports: where the hosts' SSH servers listen.

    Source: chapter, "Scaling": the arrows of its diagrams.
    """
    flows = [Flow("admin", "all", port, "SSH") for port in sorted(ssh_ports)]
    if "balancer" in tiers:
        flows.append(Flow("internet", "balancer", settings.balancer.http_port, "http"))
        if settings.balancer.https:
            flows.append(Flow("internet", "balancer", settings.balancer.https_port, "https"))
        flows.append(Flow("balancer", "web", settings.web.port, "pages", clear_text=True))
        files = "media and static files"
        flows.append(Flow("balancer", "media", settings.media.port, files, clear_text=True))
    flows.append(Flow("web", "db", settings.db.port, "queries"))
    flows.append(Flow("db", "db", settings.db.port, "replication"))
    flows.append(Flow("web", "cache", settings.cache.port, "cached values", clear_text=True))
    share, share_port = settings.media.share, settings.media.share_port
    exporter = "storage" if "storage" in tiers else "media"
    clear = share == "nfs"
    flows.append(Flow("web", exporter, share_port, f"uploads over {share}", clear_text=clear))
    if exporter == "storage":
        purpose = f"uploaded files over {share}"
        flows.append(Flow("media", "storage", share_port, purpose, clear_text=clear))
    else:
        copies = "copies of uploads"
        flows.append(Flow("media", "media", settings.media.copy_port, copies, clear_text=True))
    known = tiers | {"internet", "admin", "all"}
    return tuple(flow for flow in flows if flow.source in known and flow.target in known)
