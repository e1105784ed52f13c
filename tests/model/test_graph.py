"""The picture: whole, legible, and the same for the same cluster."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest

from tests.model.conftest import Home
from tierstack.model import Cluster
from tierstack.model.graph import svg

_SVG = "{http://www.w3.org/2000/svg}"

_TIERS = ("balancer", "web", "db", "cache", "media")

#: Hosts of each tier, by arrangement: the chapter's five, and what comes of them.
ARRANGEMENTS = {
    "a single server": dict.fromkeys(_TIERS, "srv1"),
    "a database server": {**dict.fromkeys(_TIERS, "srv1"), "db": "db1"},
    "a media server": {**dict.fromkeys(_TIERS, "srv1"), "db": "db1", "media": "media1"},
    "a web cluster": {
        "balancer": "lb1",
        "web": "web1 web2 web3",
        "db": "db1",
        "cache": "db1",
        "media": "media1",
    },
    "going big": {
        "balancer": "lb1 lb2",
        "web": "web1 web2 web3",
        "db": "db1 db2 db3",
        "cache": "cache1 cache2",
        "media": "media1",
    },
    "a storage server": {
        "balancer": "lb1",
        "web": "web1 web2 web3",
        "db": "db1 db2",
        "cache": "cache1",
        "storage": "storage1",
        "media": "media1",
    },
    "storage on the media server's neighbours": {
        "balancer": "lb1",
        "web": "web1",
        "db": "db1",
        "cache": "web1",
        "storage": "db1",
        "media": "lb1",
    },
    "twenty web hosts": {
        "balancer": "lb1",
        "web": " ".join(f"web{number}" for number in range(1, 21)),
        "db": "db1 db2 db3 db4 db5",
        "cache": "cache1 web1",
        "media": "media1",
    },
    "long names": {
        "balancer": "balancer.rack-one.data-centre-two.internal.example.com",
        "web": "web1.rack-one.data-centre-two.internal.example.com",
        "db": "db1",
        "cache": "cache1",
        "media": "media1",
    },
    "media on the balancer": {
        "balancer": "lb1",
        "web": "web1 web2",
        "db": "web1",
        "cache": "lb1 web1",
        "media": "lb1",
    },
}


@pytest.fixture(params=list(ARRANGEMENTS.values()), ids=list(ARRANGEMENTS))
def cluster(request: pytest.FixtureRequest, home: Home) -> Cluster:
    """One of the arrangements."""
    address: dict[str, str] = {}
    lines = []
    for tier, names in request.param.items():
        hosts = []
        for name in names.split():
            address.setdefault(name, f"10.0.0.{len(address) + 10}")
            hosts.append((name, {"address": address[name], "memory_mb": 8192}))
        lines.append(f"{tier} = {hosts!r}")
    home.inventory("\n".join(lines))
    home.group("db", "max_connections = 1000")
    return home.load()


def _texts(document: ElementTree.Element) -> list[str]:
    return ["".join(text.itertext()) for text in document.iter(f"{_SVG}text")]


def test_every_host_is_shown(cluster: Cluster) -> None:
    """Each host stands there with name and address."""
    texts = _texts(ElementTree.fromstring(svg(cluster)))
    for host in cluster.hosts:
        assert host.name in texts
        assert host.address in texts


def test_every_flow_is_shown_once(cluster: Cluster) -> None:
    """Each flow stands there with purpose and port, save one that has no two hosts."""
    texts = [" ".join(text.split()) for text in _texts(ElementTree.fromstring(svg(cluster)))]
    for flow in cluster.flows:
        where = " to every host" if flow.target == "all" else ""
        shown = texts.count(f"{flow.purpose}{where} {flow.protocol} {flow.port}")
        alone = flow.source == flow.target and len(cluster.tier(flow.target)) < 2
        assert shown == (0 if alone else 1), flow


def test_nothing_lies_outside(cluster: Cluster) -> None:
    """Boxes and texts lie within the picture."""
    document = ElementTree.fromstring(svg(cluster))
    _, _, width, height = (float(part) for part in document.attrib["viewBox"].split())
    for x, y, wide, high in _boxes(document):
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    for text in document.iter(f"{_SVG}text"):
        start, end = _extent(text)
        assert 0 <= start < end <= width, "".join(text.itertext())
        assert 0 < float(text.attrib["y"]) < height


def test_nothing_overlaps(cluster: Cluster) -> None:
    """Of two boxes one holds the other, or they are apart; two texts in one line are apart."""
    document = ElementTree.fromstring(svg(cluster))
    for one, other in combinations(_boxes(document), 2):
        assert _apart(one, other) or _within(one, other) or _within(other, one)
    texts = list(document.iter(f"{_SVG}text"))
    for text, another in combinations(texts, 2):
        if text.attrib["y"] == another.attrib["y"]:
            (start, end), (begin, stop) = _extent(text), _extent(another)
            assert end <= begin or stop <= start, f"{text.text} and {another.text}"


def test_same_cluster_same_picture(cluster: Cluster) -> None:
    """Drawn twice, the bytes are the same."""
    assert svg(cluster) == svg(cluster)


def _boxes(document: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    found = [
        tuple(float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        for rect in document.findall(f"{_SVG}rect")
    ]
    return [(x, y, width, height) for x, y, width, height in found]


def _extent(text: ElementTree.Element) -> tuple[float, float]:
    """Return from where to where a text goes, with an average of 0.58 of its size a letter."""
    width = 0.58 * float(text.attrib["font-size"]) * len("".join(text.itertext()))
    x = float(text.attrib["x"])
    start = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]] * width
    return start, start + width


def _apart(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return (
        one[0] + one[2] <= other[0]
        or other[0] + other[2] <= one[0]
        or one[1] + one[3] <= other[1]
        or other[1] + other[3] <= one[1]
    )


def _within(
    inner: tuple[float, float, float, float], outer: tuple[float, float, float, float]
) -> bool:
    return (
        outer[0] <= inner[0]
        and inner[0] + inner[2] <= outer[0] + outer[2]
        and outer[1] <= inner[1]
        and inner[1] + inner[3] <= outer[1] + outer[3]
    )
