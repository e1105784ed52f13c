"""The figures of one sitting as a table and a plot, and their place in a document."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Timing:
    """
    One run of a tool, and what else took the machine's time.

    Args:
        seconds: from its start to its end.
        busy: share of the processors' time that was used just before, by the idle hosts and by
            others; 0 to 1.
        steal: share of the processors' time that the machine did not get during the run; 0 to 1.
    """

    seconds: float
    busy: float
    steal: float


@dataclass(frozen=True)
class Row:
    """
    What was measured with one number of hosts.

    Args:
        hosts: how many.
        ssh_s: `ssh HOST true` to all of them at once, in seconds.
        fresh: Tierstack's first run.
        converged: Tierstack's run that changed nothing.
        executions: SSH executions of that run on the host that had the most.
        ansible_fresh: Ansible's first run.
        ansible_converged: Ansible's run that changed nothing.
    """

    hosts: int
    ssh_s: float
    fresh: Timing
    converged: Timing
    executions: int
    ansible_fresh: Timing
    ansible_converged: Timing


def table(rows: Sequence[Row]) -> str:
    """Return the figures as Markdown: seconds, ratios, and the load beside them."""
    head = (
        "hosts", "run", "Tierstack", "Ansible", "Ansible / Tierstack", "`ssh HOST true`",
        "Tierstack / ssh", "SSH executions a host", "busy before", "steal",
    )  # fmt: skip
    lines = [_line(head), _line(["--:", ":--", *["--:"] * (len(head) - 2)])]
    for row in rows:
        for name, ours, theirs in _runs(row):
            cells = [
                str(row.hosts),
                name,
                f"{ours.seconds:.1f} s",
                f"{theirs.seconds:.1f} s",
                f"{theirs.seconds / ours.seconds:.1f}",
                f"{row.ssh_s:.2f} s",
                f"{ours.seconds / row.ssh_s:.1f}",
                str(row.executions) if name == "converged" else "",
                f"{ours.busy:.0%}, {theirs.busy:.0%}",
                f"{ours.steal:.0%}, {theirs.steal:.0%}",
            ]
            lines.append(_line(cells))
    return "\n".join(lines) + "\n"


def summary(rows: Sequence[Row]) -> str:
    """Return how the figures stand to the number of hosts, in a sentence each."""
    first, last = rows[0], rows[-1]
    lines = []
    for row in rows:
        ratio = row.ansible_converged.seconds / row.converged.seconds
        lines.append(
            f"- {row.hosts} hosts: a converged run of Tierstack is {ratio:.1f} times as fast as"
            f" Ansible's, and runs at most {row.executions} commands on a host.\n"
        )
    if last is not first:
        growth = last.converged.seconds / first.converged.seconds
        theirs = last.ansible_converged.seconds / first.ansible_converged.seconds
        lines.append(
            f"- From {first.hosts} to {last.hosts} hosts, {last.hosts / first.hosts:g} times as many,"
            f" a converged run takes {growth:.1f} times as long; Ansible's {theirs:.1f} times.\n"
        )
    return "".join(lines)


def insert(document: str, mark: str, text: str) -> str:
    """
    Put a text between `<!-- MARK -->` and `<!-- /MARK -->`, in place of what is there.

    Raises:
        ValueError: the document has no such place.
    """
    place = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    if not place.search(document):
        raise ValueError(f"there is no <!-- {mark} --> … <!-- /{mark} --> in it; write both")
    return place.sub(lambda found: found[1] + text + found[2], document, count=1)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _runs(row: Row) -> list[tuple[str, Timing, Timing]]:
    return [
        ("fresh", row.fresh, row.ansible_fresh),
        ("converged", row.converged, row.ansible_converged),
    ]


# The plot: two panels on one scale, both axes logarithmic: a factor is the same step everywhere.

_WIDTH, _HEIGHT = 860, 420
_PANEL_WIDTH, _PANEL_HEIGHT = 270, 290
_LEFTS, _TOP = (64, 470), 64
_INK, _SOFT, _GRID = "#1d2530", "#5b6675", "#e2e6eb"
_COLORS = {"Ansible": "#9a5b13", "Tierstack": "#0b6b53", "ssh": "#4453a6"}
_FONT = "Inter, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"


def chart(rows: Sequence[Row]) -> str:
    """Return the figures as an SVG: seconds over the number of hosts, fresh and converged."""
    panels = [
        ("Fresh hosts", _series(rows, [(r.fresh.seconds, r.ansible_fresh.seconds) for r in rows])),
        (
            "Converged hosts",
            _series(rows, [(r.converged.seconds, r.ansible_converged.seconds) for r in rows]),
        ),
    ]
    values = [s for _, series in panels for points in series.values() for _, s in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' font-family="{_FONT}" font-size="12" fill="{_INK}" role="img">',
        "<title>Seconds of a run over the number of hosts</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for left, (title, series) in zip(_LEFTS, panels, strict=True):
        parts += _panel(left, title, series, [row.hosts for row in rows], (low, high))
    return "\n".join([*parts, "</svg>", ""])


def _series(
    rows: Sequence[Row], seconds: Sequence[tuple[float, float]]
) -> dict[str, list[tuple[int, float]]]:
    hosts = [row.hosts for row in rows]
    return {
        "Ansible": [(n, theirs) for n, (_, theirs) in zip(hosts, seconds, strict=True)],
        "Tierstack": [(n, ours) for n, (ours, _) in zip(hosts, seconds, strict=True)],
        "ssh": [(row.hosts, row.ssh_s) for row in rows],
    }


def _panel(
    left: int,
    title: str,
    series: dict[str, list[tuple[int, float]]],
    hosts: Sequence[int],
    decades: tuple[int, int],
) -> list[str]:
    low, high = decades
    bottom = _TOP + _PANEL_HEIGHT
    doublings = max(1.0, math.log2(hosts[-1] / hosts[0]))

    def x(number: float) -> float:
        return left + 16 + (_PANEL_WIDTH - 32) * math.log2(number / hosts[0]) / doublings

    def y(seconds: float) -> float:
        return bottom - _PANEL_HEIGHT * (math.log10(seconds) - low) / (high - low)

    parts = [f'<text x="{left}" y="{_TOP - 24}" font-size="15" font-weight="600">{title}</text>']
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts.append(
            f'<path d="M{left} {at:.1f}h{_PANEL_WIDTH}" stroke="{_GRID}"/>'
            f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="{_SOFT}">'
            f"{10.0**decade:g} s</text>"
        )
    parts += [
        f'<text x="{x(n):.1f}" y="{bottom + 20}" text-anchor="middle" fill="{_SOFT}">{n}</text>'
        for n in hosts
    ]
    parts.append(
        f'<text x="{left + _PANEL_WIDTH / 2}" y="{bottom + 40}" text-anchor="middle"'
        f' fill="{_SOFT}">hosts</text>'
    )
    for name, points in series.items():
        color = _COLORS[name]
        line = " ".join(f"{x(n):.1f},{y(seconds):.1f}" for n, seconds in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x(n):.1f}" cy="{y(seconds):.1f}" r="3.5" fill="{color}"/>'
            for n, seconds in points
        ]
        last, seconds = points[-1]
        label = escape("ssh HOST true" if name == "ssh" else name)
        parts.append(
            f'<text x="{x(last) + 10:.1f}" y="{y(seconds) + 4:.1f}" fill="{color}"'
            f' font-weight="600">{label}</text>'
        )
    return parts
