"""Memory and connections as a budget: what each program gets, and whether it adds up."""

from __future__ import annotations

from dataclasses import dataclass

from tierstack.model.cluster import Cluster, Host, Site
from tierstack.model.errors import CapacityError, Mistake

#: How tiers that share a host divide what the system leaves them.
#: Source: chapter, "There's no such thing as too much RAM": first the database, then the web server.
_WEIGHTS = {"db": 40, "web": 40, "cache": 10, "storage": 5, "media": 5, "balancer": 5}

#: Connections kept for administration, migrations and replication, beside the web workers'.
_CONNECTIONS_RESERVED = 20

#: What memcached takes beside the items themselves, in MiB: hash table and connection buffers.
_CACHE_OVERHEAD_MB = 48

#: Fewer items are not worth a cache, in MiB.
_CACHE_LEAST_MB = 16


#: What a visitor's connection takes: 35 measured with a request that waits, its buffers full more.
#: In KiB.
_CONNECTION_KB = 64


#: A step of memory is this part of the power of two below it: 64 MiB of 1 GiB, 1 GiB of 16.
_STEPS = 16


def planned_memory_mb(has_mb: int, planned_mb: int | None = None) -> int:
    """
    Return the memory to plan a host's programs with: a coarse step, and the same one again.

    What a host says that it has changes by a little with each kernel, and PostgreSQL and memcached
    change their size by a restart only.

    Args:
        has_mb: what the host says that it has, in MiB.
        planned_mb: what was planned with last time; None for a new host.
    """
    if planned_mb:
        step = _step_mb(planned_mb)
        if planned_mb - step // 2 <= has_mb < planned_mb + 2 * step:
            return planned_mb
    return has_mb - has_mb % _step_mb(has_mb)


def _step_mb(memory_mb: int) -> int:
    return max(1, (1 << memory_mb.bit_length() - 1) // _STEPS)


@dataclass(frozen=True)
class PostgresMemory:
    """PostgreSQL's memory settings, in MiB."""

    shared_buffers_mb: int
    effective_cache_mb: int
    work_mb: int
    maintenance_mb: int


def tier_memory_mb(cluster: Cluster, host: Host, tier: str) -> int:
    """
    Return the memory that a tier may use on a host, in MiB.

    Args:
        cluster: the cluster.
        host: a host of that tier whose `memory_mb` is known.
        tier: the tier.

    Raises:
        CapacityError: the host's memory is not known.
    """
    if host.memory_mb is None:
        raise CapacityError(f"{host.name}: memory is not known; write memory_mb in its line")
    free: float = max(0, host.memory_mb - cluster.settings.base.reserve_mb)
    weights = {name: _WEIGHTS[name] for name in host.tiers}
    total = sum(weights.values())
    if "cache" in weights:
        # A small host's tenth would not hold memcached itself.
        cache = max(free * weights.pop("cache") / total, _CACHE_OVERHEAD_MB + _CACHE_LEAST_MB)
        if tier == "cache":
            return int(min(free, cache))
        free, total = max(0, free - cache), sum(weights.values())
    return int(free * weights[tier] / total)


def web_workers(cluster: Cluster, host: Host) -> int:
    """
    Share a web host's memory among Apache's workers.

    Returns:
        Worker count, at least 1.

    Raises:
        CapacityError: not even one worker fits, or those that the user asked for do not.

    Source: chapter, "Performance tuning"; Apache manual, mpm_common, MaxRequestWorkers.
    """
    web = cluster.settings.web
    memory = tier_memory_mb(cluster, host, "web")
    fitting = memory // web.worker_mb
    if web.workers is not None:
        if web.workers > fitting:
            raise CapacityError(
                f"{web.workers} workers of {web.worker_mb} MiB do not fit the {memory} MiB"
                f" that {host.name} has for them; write at most {fitting}"
                if fitting
                else f"not one worker of {web.worker_mb} MiB fits the {memory} MiB"
                f" that {host.name} has for them; give it more memory"
            )
        return web.workers
    if fitting < 1:
        raise CapacityError(
            f"not one worker of {web.worker_mb} MiB fits the {memory} MiB that {host.name}"
            " has for them; give it more memory"
        )
    return min(fitting, web.workers_limit)


def node_maxconn(cluster: Cluster, host: Host) -> int:
    """
    Return how many requests one balancer sends to a web host at once.

    All balancers together stay one worker below Apache's, so that a health check never queues
    behind visitors; with fewer workers than balancers each still sends one.
    """
    balancers = max(1, len(cluster.tier("balancer")))
    return max(1, (web_workers(cluster, host) - 1) // balancers)


def lane_connections(cluster: Cluster) -> int:
    """
    Return how many requests of one kind a balancer sends to workers at once: a third of all.

    Of large bodies that still arrive, and of addresses that ask for much: pages of others go on
    meanwhile, even when one of two web hosts is away.
    """
    return max(1, _requests(cluster) // 3)


def pages_of_one(cluster: Cluster) -> int:
    """
    Return for how many pages under way one address is like any other: half of all requests.

    What it asks for beyond goes by a lane, so that a sixth of the workers is never one address's.
    """
    return max(1, _requests(cluster) // 2)


def _requests(cluster: Cluster) -> int:
    return sum(node_maxconn(cluster, node) for node in cluster.tier("web"))


def postgres_memory(cluster: Cluster, host: Host) -> PostgresMemory:
    """
    Divide a database host's memory share.

    Raises:
        CapacityError: the page cache that the user asked for leaves nothing for connections.

    Source: PostgreSQL 15 manual, 20.4: a quarter of the memory for shared_buffers.
    """
    db = cluster.settings.db
    memory = tier_memory_mb(cluster, host, "db")
    shared = db.shared_buffers_mb or max(16, memory // 4)
    if shared > memory * 6 // 10:
        raise CapacityError(
            f"shared_buffers_mb = {shared} leaves too little of the {memory} MiB that {host.name}"
            f" has for PostgreSQL; write at most {memory * 6 // 10}"
        )
    return PostgresMemory(
        shared_buffers_mb=shared,
        effective_cache_mb=max(shared, memory * 3 // 4),
        work_mb=max(1, memory // 4 // max(1, db.max_connections // 4)),
        maintenance_mb=max(16, memory // 16),
    )


def cache_memory_mb(cluster: Cluster, host: Host) -> int:
    """
    Return memcached's item memory on a host, in MiB.

    Raises:
        CapacityError: what the user asked for does not fit.

    Source: memcached(1), -m: the limit covers items only.
    """
    memory = tier_memory_mb(cluster, host, "cache")
    fitting = memory - _CACHE_OVERHEAD_MB
    wanted = cluster.settings.cache.memory_mb
    if wanted is None:
        wanted = max(_CACHE_LEAST_MB, fitting)
    if wanted > fitting:
        raise CapacityError(
            f"{wanted} MiB of items and {_CACHE_OVERHEAD_MB} MiB of overhead do not fit the"
            f" {memory} MiB that {host.name} has for memcached; "
            + (f"write at most {fitting}" if fitting >= _CACHE_LEAST_MB else "give it more memory")
        )
    return wanted


def balancer_connections(cluster: Cluster, host: Host) -> int:
    """Return how many visitors' connections one balancer holds: as set, or as its memory allows."""
    fitting = tier_memory_mb(cluster, host, "balancer") * 1024 // _CONNECTION_KB
    return max(100, min(cluster.settings.balancer.max_connections, fitting))


def source_connections(cluster: Cluster, host: Host) -> int:
    """
    Return how many connections one address may have at a balancer: as set, or a tenth of all.

    An office behind one address waits together while a single web node restarts: it gets 100 where
    that leaves half to others.
    """
    total = balancer_connections(cluster, host)
    return cluster.settings.balancer.source_connections or max(total // 10, min(100, total // 2))


def check_capacity(cluster: Cluster) -> list[Mistake]:
    """
    Return what does not add up: memory of every host whose memory is known, and connections.

    Works on the inventory alone; a host that the inventory says no memory for is checked at the
    start of the deploy, when it was asked.
    """
    mistakes = []
    parts = (
        ("web", "web.workers", web_workers),
        ("db", "db.shared_buffers_mb", postgres_memory),
        ("cache", "cache.memory_mb", cache_memory_mb),
    )
    for tier, key, size in parts:
        for host in cluster.tier(tier):
            if host.memory_mb is None:
                continue
            try:
                size(cluster, host)
            except CapacityError as error:
                mistakes.append(Mistake(key, str(error)))
    return mistakes + _check_connections(cluster)


def _check_connections(cluster: Cluster) -> list[Mistake]:
    web_hosts = cluster.tier("web")
    if not cluster.tier("db") or any(host.memory_mb is None for host in web_hosts):
        return []
    try:
        workers = sum(web_workers(cluster, host) for host in web_hosts)
    except CapacityError:
        return []
    aliases = sum(_aliases(site) for site in cluster.sites)
    need = workers * aliases + _CONNECTIONS_RESERVED
    each = (
        ", two for each worker of a site with replica_alias" if aliases > len(cluster.sites) else ""
    )
    allowed = cluster.settings.db.max_connections
    if need <= allowed:
        return []
    return [
        Mistake(
            "db.max_connections",
            f"{len(web_hosts)} web hosts with {workers} workers in all need {need} connections"
            f" ({_CONNECTIONS_RESERVED} of them reserved{each}), and PostgreSQL accepts {allowed};"
            f" write db.max_connections = {need + need // 2}, or a smaller web.workers_limit",
        )
    ]


def _aliases(site: Site) -> int:
    """Return how many connections a worker may have for a site."""
    # Where no standby answers, the primary gets the reads as well.
    return 2 if site.settings.replica_alias else 1


def pool_budget(cluster: Cluster, site: Site) -> dict[str, int]:
    """
    Return what PostgreSQL has for a site's own pool of connections, which each worker has one of.

    Only the site's loaded settings say how large it is, so that the host that loads them compares. What
    is left beside a connection for each worker is shared evenly among the sites.

    Returns:
        "workers" of all web hosts, the connections that PostgreSQL "allowed", the largest "size" of a
        pool that they hold, and what is needed for any: "base" and "each" times its size. Empty where
        the memory of a web host is not known.
    """
    try:
        workers = sum(web_workers(cluster, host) for host in cluster.tier("web"))
    except CapacityError:
        return {}
    allowed = cluster.settings.db.max_connections
    least = _CONNECTIONS_RESERVED + workers * sum(_aliases(one) for one in cluster.sites)
    each = len(cluster.sites) * workers * _aliases(site)
    return {
        "workers": workers,
        "allowed": allowed,
        "size": 1 + max(0, allowed - least) // each,
        "base": least - each,
        "each": each,
    }
