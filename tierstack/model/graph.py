"""The picture of a cluster: tiers, hosts and flows as one SVG without outside parts.

Visitors at the top, then balancers, the web cluster, and below it what it needs: the chapter's
diagrams ("Scaling"). All arrows are vertical, so that no two cross, and each has its label to itself:
the web cluster ends before the right edge, where the balancers' arrow to the media tier goes down.
Media servers that read from a storage host stand below it.
Tiers on the very same hosts are one box, as in the chapter's first diagrams.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from tierstack.model.cluster import TIERS, Cluster, Flow, Host


@dataclass(frozen=True)
class _Look:
    """How a tier is shown: its name with one host and with several, its program, its colors."""

    one: str
    several: str
    program: str
    accent: str
    tint: str


_LOOKS = {
    "balancer": _Look("Balancer", "Balancers", "HAProxy", "#4453a6", "#eef0fb"),
    "web": _Look("Web server", "Web cluster", "Apache, mod_python, Django", "#0b6b53", "#e9f5f0"),
    "db": _Look("Database", "Databases", "PostgreSQL", "#9a5b13", "#fbf2e6"),
    "cache": _Look("Cache", "Caches", "memcached", "#8a3b76", "#f8edf5"),
    "storage": _Look("Storage", "Storage", "NFS server", "#4a6b1f", "#f1f6e8"),
    "media": _Look("Media server", "Media servers", "lighttpd", "#1f6a8c", "#e8f3f8"),
}
_INK, _SOFT, _LINE = "#1d2530", "#5b6675", "#c9d0d8"
_FONT = "Inter, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"

_MARGIN = 24  # around the picture
_PAD = 20  # inside frame and panels
_GAP = 14  # between host boxes
_PANEL_GAP = 24
_HEADER = 54  # a panel's title and program
_LABEL_LINE = 17
_BOX_MIN, _BOX_MAX = 116, 300


@dataclass
class _Panel:
    """Tiers that have the same hosts, drawn as one group; sizes in pixels."""

    tiers: list[str]
    hosts: tuple[Host, ...]
    row: int
    inside: list[Flow] = field(default_factory=list)
    replication: Flow | None = None
    x: float = 0
    y: float = 0
    width: float = 0
    height: float = 0
    axis: float = 0  # the middle of its host boxes

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def title(self) -> str:
        looks = [_LOOKS[tier] for tier in self.tiers]
        return " + ".join(look.one if len(self.hosts) == 1 else look.several for look in looks)

    @property
    def programs(self) -> str:
        return ", ".join(_LOOKS[tier].program for tier in self.tiers)

    @property
    def accent(self) -> str:
        return _LOOKS[self.tiers[0]].accent


@dataclass
class _Arrow:
    """All flows from one panel to another: one arrow, a label line for each."""

    flows: list[Flow]
    source: _Panel
    target: _Panel
    x: float = 0
    label_y: float = 0

    @property
    def upper(self) -> _Panel:
        return min(self.source, self.target, key=lambda panel: panel.row)

    @property
    def lower(self) -> _Panel:
        return max(self.source, self.target, key=lambda panel: panel.row)

    @property
    def width(self) -> float:
        return _label_width(self.flows)


def svg(cluster: Cluster) -> str:
    """
    Draw a cluster.

    Returns:
        An SVG document; the same cluster gives the same bytes.
    """
    panels = _panels(cluster)
    arrows = _arrows(cluster, panels)
    visitors = [flow for flow in cluster.flows if flow.source == "internet"]
    admin = [flow for flow in cluster.flows if flow.source == "admin"]
    box = _box_size(panels)
    _place_across(panels, arrows, box)
    frame_y = 108 + max(len(visitors), len(admin)) * _LABEL_LINE + 40
    bottom = _place_down(panels, arrows, box, frame_y + 66)

    left = _MARGIN + _PAD
    inner = max(panel.right for panel in panels) - left
    width, height = inner + 2 * left, bottom + _PAD + _MARGIN
    drawing = [
        _rect(0, 0, width, height, "#ffffff", radius=0),
        _rect(
            _MARGIN, frame_y, width - 2 * _MARGIN, height - _MARGIN - frame_y, "#fafbfc", _LINE, 14
        ),
        *_title(cluster, left, frame_y, panels[0].axis - left - _PAD),
    ]
    for panel in panels:
        drawing += _draw_panel(panel, box)
    for arrow in arrows:
        drawing += _draw_arrow(arrow)
    if visitors:
        target = next(panel for panel in panels if visitors[0].target in panel.tiers)
        x = target.axis
        drawing += [_people(x, 44), _text(x, 92, "Visitors", 14, weight=600, anchor="middle")]
        drawing += [_line(x, 102, target.y, target.accent)]
        drawing += _label(x, (102 + frame_y) / 2 - 4, visitors)
    if admin:
        x = left + _label_width(admin) / 2
        drawing += [_terminal(x, 46), _text(x, 92, "Admin", 14, weight=600, anchor="middle")]
        drawing += [_line(x, 102, frame_y, _SOFT)]
        drawing += _label(x, (102 + frame_y) / 2 - 4, admin)
    return "\n".join([_head(cluster, width, height), *drawing, "</svg>"]) + "\n"


# What there is to draw


def _panels(cluster: Cluster) -> list[_Panel]:
    panels: list[_Panel] = []
    for tier in TIERS:
        hosts = cluster.tier(tier)
        if not hosts:
            continue
        same = [panel for panel in panels if set(panel.hosts) == set(hosts)]
        if same:
            same[0].tiers.append(tier)
        else:
            row = {"balancer": 0, "web": 1, "media": 3 if cluster.tier("storage") else 2}.get(
                tier, 2
            )
            panels.append(_Panel([tier], hosts, row))
    return panels


def _arrows(cluster: Cluster, panels: list[_Panel]) -> list[_Arrow]:
    of_tier = {tier: panel for panel in panels for tier in panel.tiers}
    arrows: dict[tuple[int, int], _Arrow] = {}
    for flow in cluster.flows:
        if flow.source not in of_tier or flow.target not in of_tier:
            continue
        source, target = of_tier[flow.source], of_tier[flow.target]
        if source is not target:
            key = (panels.index(source), panels.index(target))
            arrows.setdefault(key, _Arrow([], source, target)).flows.append(flow)
        elif flow.source != flow.target:
            source.inside.append(flow)
        elif len(source.hosts) > 1:
            source.replication = flow
    return list(arrows.values())


# Where it goes


def _box_size(panels: Iterable[_Panel]) -> tuple[float, float]:
    hosts = [(host, panel) for panel in panels for host in panel.hosts]
    widest = max(_width(host.name, 14, bold=True) for host, _ in hosts)
    shared = any(_elsewhere(host, panel) for host, panel in hosts)
    return min(_BOX_MAX, max(_BOX_MIN, widest + 28)), 66 if shared else 50


def _place_across(panels: list[_Panel], arrows: list[_Arrow], box: tuple[float, float]) -> None:
    """Set every x and width."""
    rows = [[panel for panel in panels if panel.row == row] for row in range(4)]
    skipping = [arrow for arrow in arrows if any(_passed(arrow, panels))]
    # Room beside the web cluster for the arrow that goes past it.
    channel = max((arrow.width + 2 * _PAD for arrow in skipping), default=0.0)
    # The panel under the channel comes last.
    rows[2].sort(key=lambda panel: any(arrow.lower is panel for arrow in skipping))
    for panel in panels:
        columns = min(len(panel.hosts), _columns(panel))
        boxes = columns * (box[0] + _GAP) - _GAP
        labels = sum(arrow.width + 2 * _PAD for arrow in arrows if arrow.lower is panel)
        panel.width = max(boxes + 2 * _PAD, labels, _texts_width(panel) + 2 * _PAD)
    below = sum(panel.width for panel in rows[2]) + _PANEL_GAP * max(0, len(rows[2]) - 1)
    # Where media servers are the last row, their arrow goes past all that is between.
    beside = channel if rows[3] else 0.0
    inner = max(
        [560.0, below + beside, *(panel.width for panel in rows[0] + rows[3])]
        # Visitors come in over the middle of the web cluster, beside the admin.
        + [max(440.0, panel.width) + channel for panel in rows[1]]
    )
    left = _MARGIN + _PAD
    for panel in rows[0] + rows[3]:
        panel.x, panel.width = left, inner
    for panel in rows[1]:
        panel.x, panel.width = left, inner - channel
    x: float = left
    for panel in rows[2]:
        panel.x, panel.width = x, panel.width + (inner - beside - below) / len(rows[2])
        x = panel.right + _PANEL_GAP
    for panel in panels:
        panel.axis = panel.x + panel.width / 2
    if rows[1]:
        # Visitors, balancers and web cluster under each other.
        for panel in rows[0]:
            panel.axis = rows[1][0].axis
    for panel in panels:
        above = [arrow for arrow in arrows if arrow.lower is panel and arrow not in skipping]
        for index, arrow in enumerate(above):
            start, end = max(panel.x, arrow.upper.x), min(panel.right, arrow.upper.right)
            arrow.x = start + (end - start) * (index + 0.5) / len(above)
    for arrow in skipping:
        arrow.x = left + inner - channel / 2


def _passed(arrow: _Arrow, panels: Iterable[_Panel]) -> list[_Panel]:
    """Return the panels of the rows that an arrow goes past."""
    return [panel for panel in panels if arrow.upper.row < panel.row < arrow.lower.row]


def _columns(panel: _Panel) -> int:
    """Return how many host boxes a panel wants side by side."""
    if panel.row < 2 or panel.replication or len(panel.hosts) > 6:
        return 4
    return 2


def _place_down(
    panels: list[_Panel], arrows: list[_Arrow], box: tuple[float, float], top: float
) -> float:
    """Set every y and height; return where the lowest panel ends."""
    y: float = top
    for row in range(4):
        here = [panel for panel in panels if panel.row == row]
        if not here:
            continue
        for panel in here:
            panel.y, panel.height = y, _panel_height(panel, box)
        tallest = max(panel.height for panel in here)
        for panel in here:
            panel.height = tallest
        leaving = [arrow for arrow in arrows if arrow.upper.row == row]
        y += tallest + 56 + _LABEL_LINE * max((len(arrow.flows) for arrow in leaving), default=1)
    for arrow in arrows:
        between = min(_passed(arrow, panels), key=lambda panel: panel.row, default=None)
        start = between.y if between else arrow.upper.bottom
        end = between.bottom if between else arrow.lower.y
        arrow.label_y = (start + end) / 2 - (0 if between else 3)
    return max(panel.bottom for panel in panels)


def _grid(panel: _Panel, box: tuple[float, float]) -> tuple[int, int]:
    """Return columns and rows of a panel's host boxes, the rows as even as they can be."""
    count = len(panel.hosts)
    fitting = max(1, int((panel.width - 2 * _PAD + _GAP) // (box[0] + _GAP)))
    rows = -(-count // min(count, fitting))
    return -(-count // rows), rows


def _panel_height(panel: _Panel, box: tuple[float, float]) -> float:
    _, rows = _grid(panel, box)
    height = _HEADER + rows * (box[1] + _GAP) - _GAP + _PAD
    if panel.replication:
        height += 48
    return height + (len(panel.inside) + 1) * _LABEL_LINE * bool(panel.inside)


# How it looks


def _draw_panel(panel: _Panel, box: tuple[float, float]) -> list[str]:
    tint = _LOOKS[panel.tiers[0]].tint
    hosts = f"{len(panel.hosts)} host{'s' if len(panel.hosts) > 1 else ''}"
    drawing = [
        _rect(panel.x, panel.y, panel.width, panel.height, tint, panel.accent, 10),
        _text(panel.x + _PAD, panel.y + 25, panel.title, 15, panel.accent, 700),
        _text(panel.x + _PAD, panel.y + 42, panel.programs, 11.5, _SOFT),
        _text(panel.right - _PAD, panel.y + 25, hosts, 11.5, _SOFT, anchor="end"),
    ]
    columns, rows = _grid(panel, box)
    bus = panel.y + _HEADER + rows * (box[1] + _GAP) - _GAP + 14
    for index, host in enumerate(panel.hosts):
        row, column = divmod(index, columns)
        in_row = min(columns, len(panel.hosts) - row * columns)
        line = in_row * (box[0] + _GAP) - _GAP
        x = min(max(panel.axis - line / 2, panel.x + _PAD), panel.right - _PAD - line)
        x += column * (box[0] + _GAP)
        y = panel.y + _HEADER + row * (box[1] + _GAP)
        drawing += _draw_host(host, panel, x, y, box)
        if panel.replication and rows == 1:
            middle = x + box[0] / 2
            drawing.append(_line(middle, bus, y + box[1], panel.accent))
            if column:
                drawing.append(
                    _path(f"M{_n(middle - box[0] - _GAP)} {_n(bus)}H{_n(middle)}", panel.accent)
                )
    if panel.replication:
        drawing += _label(panel.x + panel.width / 2, bus + 19, [panel.replication], panel.accent)
    y = panel.bottom - _PAD - (len(panel.inside) - 1) * _LABEL_LINE
    if panel.inside:
        middle = panel.x + panel.width / 2
        drawing.append(_text(middle, y - _LABEL_LINE, "within:", 11.5, _SOFT, anchor="middle"))
        for index, flow in enumerate(panel.inside):
            drawing.append(_flow_text(middle, y + index * _LABEL_LINE, flow))
    return drawing


def _draw_host(
    host: Host, panel: _Panel, x: float, y: float, box: tuple[float, float]
) -> list[str]:
    middle = x + box[0] / 2
    elsewhere = _elsewhere(host, panel)
    first = y + box[1] / 2 - (12 if elsewhere else 4)
    drawing = [
        _rect(x, y, box[0], box[1], "#ffffff", panel.accent, 6, dash="4 3" if elsewhere else ""),
        _text(middle, first, host.name, 14, weight=600, anchor="middle", room=box[0] - 16),
        _text(middle, first + 17, host.address, 11.5, _SOFT, anchor="middle", mono=True),
    ]
    if elsewhere:
        also = f"also {', '.join(elsewhere)}"
        drawing.append(
            _text(middle, first + 33, also, 10.5, _SOFT, anchor="middle", room=box[0] - 12)
        )
    return drawing


def _elsewhere(host: Host, panel: _Panel) -> list[str]:
    return [tier for tier in host.tiers if tier not in panel.tiers]


def _draw_arrow(arrow: _Arrow) -> list[str]:
    down = arrow.source is arrow.upper
    start, end = arrow.upper.bottom, arrow.lower.y
    color = arrow.target.accent
    line = _line(arrow.x, start, end, color) if down else _line(arrow.x, end, start, color)
    return [line, *_label(arrow.x, arrow.label_y, arrow.flows, color)]


def _label(x: float, y: float, flows: Sequence[Flow], color: str = _SOFT) -> list[str]:
    """Draw a label with its middle at x, y: purpose and port of each flow."""
    width, height = _label_width(flows), len(flows) * _LABEL_LINE + 8
    drawing = [_rect(x - width / 2, y - height / 2, width, height, "#ffffff", color, 6, thin=True)]
    for index, flow in enumerate(flows):
        drawing.append(_flow_text(x, y - height / 2 + 16 + index * _LABEL_LINE, flow))
    return drawing


def _flow_text(x: float, y: float, flow: Flow) -> str:
    port = f'<tspan fill="{_SOFT}" font-size="11"> {flow.protocol} {flow.port}</tspan>'
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="12" fill="{_INK}" text-anchor="middle"'
        f' xml:space="preserve">{escape(_purpose(flow))} {port}</text>'
    )


def _purpose(flow: Flow) -> str:
    return f"{flow.purpose} to every host" if flow.target == "all" else flow.purpose


def _label_width(flows: Sequence[Flow]) -> float:
    return 22 + max(
        _width(_purpose(flow), 12) + _width(f"  {flow.protocol} {flow.port}", 11) for flow in flows
    )


def _texts_width(panel: _Panel) -> float:
    title = _width(panel.title, 15, bold=True) + 70
    inside = [_label_width([flow]) for flow in panel.inside]
    replication = [_label_width([panel.replication])] if panel.replication else []
    return max([title, _width(panel.programs, 11.5), *inside, *replication])


def _title(cluster: Cluster, x: float, y: float, room: float) -> list[str]:
    domains = [domain for site in cluster.sites for domain in site.settings.domains]
    shown = ", ".join(domains[:3]) + (f" and {len(domains) - 3} more" if domains[3:] else "")
    count = f"{len(cluster.hosts)} hosts" if len(cluster.hosts) > 1 else "1 host"
    return [
        _text(x, y + 30, cluster.name, 17, weight=700, room=room),
        _text(x, y + 48, f"{count} for {shown}", 12, _SOFT, room=room),
    ]


# SVG


def _head(cluster: Cluster, width: float, height: float) -> str:
    size = f'width="{_n(width)}" height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}"'
    markers = "".join(
        f'<marker id="{_marker(color)}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
        f' markerHeight="8" orient="auto-start-reverse" markerUnits="userSpaceOnUse">'
        f'<path d="M0 0.8L10 5L0 9.2z" fill="{color}"/></marker>'
        for color in [_SOFT, *(look.accent for look in _LOOKS.values())]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{_FONT}" role="img">\n'
        f"<title>{escape(cluster.name)}: tiers, hosts and flows</title>\n<defs>{markers}</defs>"
    )


def _marker(color: str) -> str:
    return f"arrow-{color.lstrip('#')}"


def _n(number: float) -> str:
    return f"{number:.1f}".rstrip("0").rstrip(".")


def _width(text: str, size: float, *, bold: bool = False) -> float:
    """Estimate how wide a text is, on the safe side: no font is at hand."""
    wide = sum(1.35 if c in "mwMW@" else 0.6 if c in "ijlt.,:;|!'()[] " else 1.0 for c in text)
    return wide * size * (0.62 if bold else 0.57)


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    color: str = _INK,
    weight: int = 400,
    anchor: str = "start",
    room: float = 0,
    mono: bool = False,
) -> str:
    """Write a line of text, smaller where it is wider than `room`."""
    more = f' font-weight="{weight}"' if weight != 400 else ""
    if mono:
        more += " font-family=\"'DejaVu Sans Mono', Menlo, Consolas, monospace\""
    if room:
        # Not textLength: half of the programs that show an SVG ignore it.
        size *= min(1.0, room / _width(text, size, bold=weight > 500))
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{color}"'
        f' text-anchor="{anchor}"{more}>{escape(text)}</text>'
    )


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    stroke: str = "none",
    radius: float = 8,
    dash: str = "",
    thin: bool = False,
) -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"'
        f' fill="{fill}" stroke="{stroke}" stroke-width="{0.6 if thin else 1.2}"{dashed}/>'
    )


def _line(x: float, start: float, end: float, color: str) -> str:
    """Draw a vertical arrow that ends just before what it points to."""
    tip = end - 2 if end > start else end + 2
    return (
        f'<path d="M{_n(x)} {_n(start)}V{_n(tip)}" fill="none" stroke="{color}" stroke-width="1.8"'
        f' marker-end="url(#{_marker(color)})"/>'
    )


def _path(d: str, color: str) -> str:
    return f'<path d="{d}" fill="none" stroke="{color}" stroke-width="1.8"/>'


def _people(x: float, y: float) -> str:
    people = "".join(
        f'<g transform="translate({_n(x + dx)} {_n(y + dy)})" fill="{color}">'
        f'<circle cy="-12" r="8"/><path d="M-14 18a14 16 0 0 1 28 0z"/></g>'
        for dx, dy, color in ((-20, -3, "#9aa8bd"), (20, -3, "#9aa8bd"), (0, 3, "#4a5a75"))
    )
    return f"<g>{people}</g>"


def _terminal(x: float, y: float) -> str:
    return (
        f'<g transform="translate({_n(x)} {_n(y)})"><rect x="-24" y="-20" width="48" height="36" rx="5"'
        f' fill="#2b3442"/><path d="M-14 -9l7 6l-7 6M-2 6h14" fill="none" stroke="#e8ecf1"'
        f' stroke-width="2.5" stroke-linecap="round" stroke-linejoin="round"/></g>'
    )
