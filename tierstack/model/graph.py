"""The picture of a cluster: tiers and flows, as in the chapter's diagrams, as one SVG.

Visitors stand at the top, below them the balancers, the web cluster, and at the bottom what the web
hosts use: databases, cache, media. Source: chapter, "Scaling".
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from tierstack.model.cluster import Cluster, Flow, Host

_HOST_W, _HOST_H, _GAP, _PAD, _TITLE_H = 124, 48, 12, 16, 26
_ROW_GAP, _COLUMN_GAP, _MARGIN = 92, 56, 32
_HOSTS_IN_A_ROW = 5
_LINE_H = 15
_CHARACTER_W = 6.3  # of the 11 px labels, so that a label's background fits its text

_TITLES = {
    "internet": "Visitors",
    "balancer": "Load balancers: HAProxy",
    "web": "Web cluster: Apache, mod_python, Django",
    "db": "Databases: PostgreSQL",
    "cache": "Cache: memcached",
    "media": "Media: lighttpd",
}
_COLORS = {
    "internet": ("#f4f5f7", "#8a94a6"),
    "balancer": ("#e8f1fb", "#2f6fb3"),
    "web": ("#e9f6ec", "#2e8b57"),
    "db": ("#fdf1e3", "#c77a1a"),
    "cache": ("#fbe9ec", "#c0394d"),
    "media": ("#f1ebfa", "#7a4fb5"),
}
_ROWS = (("internet",), ("balancer",), ("web",), ("db", "cache", "media"))


@dataclass(frozen=True)
class _Box:
    """A tier's rectangle."""

    tier: str
    x: float
    y: float
    w: float
    h: float

    @property
    def middle(self) -> float:
        return self.x + self.w / 2

    @property
    def bottom(self) -> float:
        return self.y + self.h

    @property
    def right(self) -> float:
        return self.x + self.w


def svg(cluster: Cluster) -> str:
    """
    Return the picture of a cluster as a self-contained SVG; the same cluster gives the same bytes.

    Args:
        cluster: the checked cluster.
    """
    boxes = _layout(cluster)
    aside = {(flow.source, flow.target) for flow in cluster.flows if _passes_a_row(boxes, flow)}
    inner = max(box.right for box in boxes.values())
    # Arrows that pass a row run down at the right, one lane each, with their labels.
    lanes = {pair: inner + 24 + 150 * number for number, pair in enumerate(sorted(aside))}
    width = inner + _MARGIN + (150 * len(lanes) + 40 if lanes else 0)
    height = max(box.bottom for box in boxes.values()) + 92
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, Arial, sans-serif">',
        f"<title>{escape(cluster.name)}: tiers and flows</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="#55606e"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>',
    ]
    labels: list[str] = []
    for (source, target), flows in _grouped(cluster).items():
        arrow, label = _arrow(boxes, source, target, flows, lanes.get((source, target)))
        parts.append(arrow)
        labels.append(label)
    for tier, box in boxes.items():
        parts += _group(box, cluster.tier(tier))
    parts += labels
    ports = sorted({host.ssh_port for host in cluster.hosts})
    note = f"Every host: SSH (tcp {', '.join(map(str, ports))}) for the administrator. All else is shut."
    parts.append(_text(_MARGIN, height - 22, note, size=11, fill="#55606e"))
    parts.append("</svg>\n")
    return "\n".join(parts)


def _layout(cluster: Cluster) -> dict[str, _Box]:
    """Place each tier; rows are centred over the widest one."""
    rows = []
    for tiers in _ROWS:
        row = [
            (tier, *_size(len(cluster.tier(tier))))
            for tier in tiers
            if tier == "internet" or cluster.tier(tier)
        ]
        if row:
            rows.append(row)
    widths = [sum(w for _, w, _ in row) + _COLUMN_GAP * (len(row) - 1) for row in rows]
    boxes, y = {}, float(_MARGIN)
    for row, row_width in zip(rows, widths, strict=True):
        x = _MARGIN + (max(widths) - row_width) / 2
        for tier, w, h in row:
            boxes[tier] = _Box(tier, x, y, w, h)
            x += w + _COLUMN_GAP
        y += max(h for _, _, h in row) + _ROW_GAP
    return boxes


def _size(hosts: int) -> tuple[float, float]:
    if hosts == 0:  # The visitors.
        return 160, 40
    columns = min(hosts, _HOSTS_IN_A_ROW)
    lines = -(-hosts // _HOSTS_IN_A_ROW)
    w = columns * _HOST_W + (columns - 1) * _GAP + 2 * _PAD
    # Wide enough for the longest title.
    return max(w, 204), lines * _HOST_H + (lines - 1) * _GAP + _PAD + _TITLE_H


def _row_of(tier: str) -> int:
    return next(number for number, tiers in enumerate(_ROWS) if tier in tiers)


def _passes_a_row(boxes: dict[str, _Box], flow: Flow) -> bool:
    if flow.source not in boxes or flow.target not in boxes:
        return False
    low, high = _row_of(flow.source) + 1, _row_of(flow.target)
    return any(low <= _row_of(tier) < high for tier in boxes)


def _grouped(cluster: Cluster) -> dict[tuple[str, str], list[Flow]]:
    """Return the flows by source and target; administration is told in the note below."""
    found: dict[tuple[str, str], list[Flow]] = {}
    for flow in cluster.flows:
        if flow.source == "admin" or (
            flow.source == flow.target and len(cluster.tier(flow.source)) < 2
        ):
            continue
        found.setdefault((flow.source, flow.target), []).append(flow)
    return found


def _arrow(
    boxes: dict[str, _Box], source: str, target: str, flows: list[Flow], lane: float | None
) -> tuple[str, str]:
    """Return the line and its label: straight down, round a row, or within a tier."""
    start, end = boxes[source], boxes[target]
    words = [f"{flow.purpose}: {flow.protocol} {flow.port}" for flow in flows]
    if source == target:
        x1, x2, y = (
            start.x + _PAD + _HOST_W / 2,
            start.x + _PAD + _HOST_W * 1.5 + _GAP,
            start.bottom,
        )
        path = (
            f"M{x1:.0f},{y:.0f} C{x1:.0f},{y + 26:.0f} {x2:.0f},{y + 26:.0f} {x2:.0f},{y + 1:.0f}"
        )
        return _path(path), _label((x1 + x2) / 2, y + 34, words)
    if lane is not None:
        y1, y2 = start.y + start.h / 2, end.y + end.h / 2
        path = f"M{start.right:.0f},{y1:.0f} H{lane:.0f} V{y2:.0f} H{end.right + 1:.0f}"
        return _path(path), _label(lane, (y1 + y2) / 2, words)
    x1 = min(max(end.middle, start.x + 24), start.right - 24)
    x2, y1, y2 = end.middle, start.bottom, end.y - 1
    bend = y2 - 26
    path = (
        f"M{x1:.0f},{y1:.0f} L{x1:.0f},{y2:.0f}"
        if x1 == x2
        else (f"M{x1:.0f},{y1:.0f} V{y1 + 20:.0f} L{x2:.0f},{bend:.0f} V{y2:.0f}")
    )
    return _path(path), _label(x2, (y1 + y2) / 2 + (12 if x1 != x2 else 0), words)


def _path(path: str) -> str:
    return (
        f'<path d="{path}" fill="none" stroke="#55606e" stroke-width="1.6"'
        ' stroke-linejoin="round" marker-end="url(#head)"/>'
    )


def _label(x: float, y: float, words: list[str]) -> str:
    """Return lines of text around a point, on a background that hides the arrow behind them."""
    w = max(len(word) for word in words) * _CHARACTER_W + 10
    h = len(words) * _LINE_H + 4
    top = y - h / 2
    lines = "".join(
        _text(x, top + 13 + number * _LINE_H, word, size=11, fill="#2b333d", anchor="middle")
        for number, word in enumerate(words)
    )
    return (
        f'<g><rect x="{x - w / 2:.0f}" y="{top:.0f}" width="{w:.0f}" height="{h:.0f}" rx="3"'
        f' fill="#ffffff" fill-opacity="0.95"/>{lines}</g>'
    )


def _group(box: _Box, hosts: tuple[Host, ...]) -> list[str]:
    fill, stroke = _COLORS[box.tier]
    parts = [
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.w:.0f}" height="{box.h:.0f}" rx="9"'
        f' fill="{fill}" stroke="{stroke}" stroke-width="1.4"/>'
    ]
    title_y = box.y + (18 if hosts else 25)
    title = _TITLES[box.tier] if box.w > 250 or not hosts else _TITLES[box.tier].partition(", ")[0]
    parts.append(
        _text(box.middle, title_y, title, size=13, fill=stroke, anchor="middle", bold=True)
    )
    columns = min(len(hosts), _HOSTS_IN_A_ROW) or 1
    used = columns * _HOST_W + (columns - 1) * _GAP
    for number, host in enumerate(hosts):
        x = box.middle - used / 2 + (number % _HOSTS_IN_A_ROW) * (_HOST_W + _GAP)
        y = box.y + _TITLE_H + (number // _HOSTS_IN_A_ROW) * (_HOST_H + _GAP)
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{_HOST_W}" height="{_HOST_H}" rx="5"'
            f' fill="#ffffff" stroke="{stroke}" stroke-width="1"/>'
        )
        middle = x + _HOST_W / 2
        name = host.name if len(host.name) <= 16 else host.name[:15] + "…"
        parts.append(
            _text(middle, y + 20, name, size=13, fill="#1d2530", anchor="middle", bold=True)
        )
        parts.append(_text(middle, y + 37, host.address, size=11, fill="#55606e", anchor="middle"))
    return parts


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int,
    fill: str,
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{fill}"'
        f' text-anchor="{anchor}"{weight}>{escape(text)}</text>'
    )
