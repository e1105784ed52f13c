"""Memory and connections are a budget that adds up."""

from __future__ import annotations

import pytest

from tests.model.conftest import HOSTS, SITES, Home
from tierstack.model import CapacityError
from tierstack.model.sizing import (
    cache_memory_mb,
    check_capacity,
    node_maxconn,
    planned_memory_mb,
    pool_budget,
    postgres_memory,
    web_workers,
)


def test_workers_fit_the_memory(home: Home) -> None:
    """1,024 MiB less the system's 200 are ten workers of 80, and balancers leave one for health checks."""
    cluster = home.load()
    web1 = cluster.host("web1")
    assert web_workers(cluster, web1) == 10
    assert node_maxconn(cluster, web1) == 9


def test_workers_are_limited_on_a_large_host(home: Home) -> None:
    """However large a host, its workers stay within the limit that the database was told of."""
    home.inventory(
        HOSTS.replace('"10.0.0.11", "memory_mb": 1024', '"10.0.0.11", "memory_mb": 65536')
    )
    cluster = home.load()
    assert web_workers(cluster, cluster.host("web1")) == cluster.settings.web.workers_limit


def test_memory_of_a_host_is_taken_where_its_line_says_none(home: Home) -> None:
    """What the host says counts only where the inventory says nothing."""
    home.inventory(HOSTS.replace('"10.0.0.11", "memory_mb": 1024', '"10.0.0.11"'))
    cluster = home.load()
    with pytest.raises(
        CapacityError, match="web1: memory is not known; write memory_mb in its line"
    ):
        web_workers(cluster, cluster.host("web1"))
    asked = cluster.with_memory({"web1": 680, "web2": 99})
    assert web_workers(asked, asked.host("web1")) == 6
    assert asked.host("web2").memory_mb == 1024


def test_too_small_a_host_is_found_once_it_was_asked(home: Home) -> None:
    """A host too small for one worker is a mistake as soon as its memory is known."""
    home.inventory(HOSTS.replace('"10.0.0.11", "memory_mb": 1024', '"10.0.0.11"'))
    asked = home.load().with_memory({"web1": 256})
    assert [str(mistake) for mistake in check_capacity(asked)] == [
        "web.workers: not one worker of 80 MiB fits the 56 MiB that web1 has for them;"
        " give it more memory"
    ]


def test_tiers_on_one_host_share_its_memory(home: Home) -> None:
    """Programs on one host divide what the system leaves, and never more than that."""
    line = '[("one", {"address": "10.0.0.11", "memory_mb": 4096})]'
    tiers = ("balancer", "web", "db", "cache", "media")
    home.inventory("\n".join(f"{tier} = {line}" for tier in tiers))
    cluster = home.load()
    one = cluster.host("one")
    database = postgres_memory(cluster, one)
    used = (
        web_workers(cluster, one) * cluster.settings.web.worker_mb
        + database.shared_buffers_mb
        + cache_memory_mb(cluster, one)
    )
    assert used < 4096 - cluster.settings.base.reserve_mb
    assert database.shared_buffers_mb < database.effective_cache_mb < 4096


def test_memory_is_planned_in_steps() -> None:
    """A sixteenth at most is left over; what is planned is never more than there is."""
    assert [planned_memory_mb(has) for has in (500, 983, 2048, 3927, 16002, 64312)] == [
        496, 960, 2048, 3840, 15872, 63488,
    ]  # fmt: skip
    for has in range(256, 70000, 37):
        assert has * 15 / 16 < planned_memory_mb(has) <= has


@pytest.mark.parametrize("has", [683, 983, 2048, 3927, 16002, 64312])
def test_another_kernel_changes_no_size(has: int) -> None:
    """A hundredth less or more, whichever way and however often, is no other host."""
    planned = planned_memory_mb(has)
    for now in (has - 1, has + 1, has - has // 100, has + has // 100, has):
        assert planned_memory_mb(now, planned) == planned
    # On a host that was planned with all that it has, too.
    assert planned_memory_mb(has - 1, has) == has
    # Another machine is: nothing of it is given away, or planned with twice.
    assert planned_memory_mb(has * 2, planned) == planned_memory_mb(has * 2)
    assert planned_memory_mb(has * 3 // 4, planned) <= has * 3 // 4


@pytest.mark.parametrize(
    ("allowed", "replica"),
    [(40, ""), (59, ""), (60, ""), (61, ""), (400, ""), (99, 'replica_alias="replica",')],
)
def test_pools_of_all_workers_fit(home: Home, allowed: int, replica: str) -> None:
    """The largest pool that is let through is the largest that PostgreSQL lets in: 20 are kept back."""
    home.group("all", SITES.replace('name="blog",', f'name="blog", {replica}'))
    home.group("db", f"max_connections = {allowed}\n")
    cluster = home.load()
    found = pool_budget(cluster, cluster.sites[0])
    need = [20 + found["workers"] * (2 if replica else 1) * size for size in range(99)]
    assert found["workers"] == 20
    assert [found["base"] + found["each"] * size for size in range(99)] == need
    assert need[found["size"]] <= allowed < need[found["size"] + 1]
