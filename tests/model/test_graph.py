"""The picture shows every host and every flow, and nothing outside its frame."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.model.conftest import HOSTS, Home
from tierstack.model.graph import svg

_SVG = "{http://www.w3.org/2000/svg}"


def _many_hosts() -> str:
    more = "\n".join(
        f'        ("web{number}", {{"address": "10.0.1.{number}", "memory_mb": 600}}),'
        for number in range(3, 13)
    )
    return HOSTS.replace(
        '"10.0.0.12", "memory_mb": 1024}),', f'"10.0.0.12", "memory_mb": 1024}}),\n{more}'
    )


def test_every_host_and_flow_is_shown(home: Home) -> None:
    """Names, addresses and flows all stand in the picture."""
    cluster = home.load()
    texts = "\n".join(
        element.text or "" for element in ET.fromstring(svg(cluster)).iter(f"{_SVG}text")
    )
    for host in cluster.hosts:
        assert host.name in texts
        assert host.address in texts
    for flow in cluster.flows:
        assert f"{flow.protocol} {flow.port}" in texts
        assert flow.purpose in texts


def test_texts_stay_inside_and_apart(home: Home) -> None:
    """With many hosts too, every text lies in the frame and no two labels overlap."""
    home.inventory(_many_hosts())
    root = ET.fromstring(svg(home.load()))
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    for element in root.iter(f"{_SVG}text"):
        assert 0 < float(element.get("x", -1)) < width
        assert 0 < float(element.get("y", -1)) < height
    labels = [group.find(f"{_SVG}rect") for group in root.iter(f"{_SVG}g")]
    areas = [
        [float(label.get(key, 0)) for key in ("x", "y", "width", "height")]
        for label in labels
        if label is not None
    ]
    for number, (x, y, w, h) in enumerate(areas):
        assert x >= 0
        assert x + w <= width
        for x2, y2, w2, h2 in areas[number + 1 :]:
            apart = x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y
            assert apart, "two labels overlap"


def test_picture_is_the_same_each_time(home: Home) -> None:
    """The same cluster gives the same bytes."""
    assert svg(home.load()) == svg(home.load())
