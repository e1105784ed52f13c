"""Cache hosts that are not new restart one after the other, and are found again in between."""

from __future__ import annotations

from typing import Any

import pytest

from roles import cache
from tests.model.conftest import HOSTS, Home
from tierstack import hosts

_LINE = '("cache1", {"address": "10.0.0.31", "memory_mb": 512})'
_MORE = ', ("cache2", {"address": "10.0.0.32", "memory_mb": 512})'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the role would have `rolled_config` do."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(cache, "rolled_config", lambda **arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize(
    ("inventory", "first", "last"),
    [
        (HOSTS.replace(_LINE, _LINE + _MORE), "cache1", "cache2"),
        # Without cache hosts, memcached runs on the web hosts.
        (HOSTS.replace(f"cache = [{_LINE}]", ""), "web1", "web2"),
    ],
)
def test_restarts_leave_time_between(
    home: Home,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[dict[str, Any]],
    inventory: str,
    first: str,
    last: str,
) -> None:
    """Web hosts leave a cache host alone for 15 s: so long the next one waits, and nobody after it."""
    home.inventory(inventory)
    cluster = home.load()
    monkeypatch.setattr(hosts, "facts", lambda name: {"stamps": ["base", "cache"]})
    for name in (first, last):
        cache.deploy(cluster, cluster.host(name))
    assert [call["_serial"] for call in asked] == [True, True]
    assert [call["units"][0].restart for call in asked] == [
        "systemctl restart memcached.service && sleep 16",
        "systemctl restart memcached.service",
    ]


def test_new_hosts_start_at_once(
    home: Home, monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]
) -> None:
    """Who has cached nothing yet keeps nobody waiting."""
    cluster = home.load()
    monkeypatch.setattr(hosts, "facts", lambda name: {"stamps": []})
    cache.deploy(cluster, cluster.host("cache1"))
    assert "_serial" not in asked[0]
