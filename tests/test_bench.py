"""What the benchmark makes of its figures; the figures themselves are made by hand."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import clusters, manifest, playbook, report
from bench.deploy import executions
from bench.report import Row, Timing
from tierstack.inventory import CHECKOUT, load_cluster

SVG = "{http://www.w3.org/2000/svg}"


def row(hosts: int, fresh: float, converged: float) -> Row:
    """Return figures in which Ansible is five times slower on fresh hosts, ten times on others."""
    fresh_timings = (Timing(fresh, 0.02, 0.0), Timing(5 * fresh, 0.03, 0.01))
    timings = (Timing(converged, 0.02, 0.0), Timing(10 * converged, 0.03, 0.01))
    return Row(hosts, 0.5, fresh_timings[0], timings[0], 11, fresh_timings[1], timings[1])


@pytest.mark.parametrize("hosts", [4, 7, 8, 16, 32, 64])
def test_clusters_have_as_many_hosts_as_asked_for(tmp_path: Path, hosts: int) -> None:
    """Each arrangement is a cluster that passes the check, with every tier."""
    cluster = load_cluster(clusters.write(tmp_path, hosts))
    assert len(cluster.hosts) == hosts
    tiers = ("balancer", "web", "db", "cache", "media")
    assert [tier for tier in tiers if not cluster.tier(tier)] == []


def test_eight_hosts_are_those_of_the_lab(tmp_path: Path) -> None:
    """The figure for 8 hosts is that of `make demo`."""
    cluster = load_cluster(clusters.write(tmp_path, 8))
    demo = load_cluster(CHECKOUT / "inventories" / "lab.py")
    assert {host.name for host in demo.hosts} == {host.name for host in cluster.hosts}


def test_hosts_that_differ_are_told_line_by_line() -> None:
    """A mode, a missing file and a missing host count; what each new host makes for itself does not."""
    key = "/etc/ssh/ssh_host_ed25519_key"
    ours = {"web1": {"file": {"/etc/a": "file 644", "/etc/b": "file 600", key: "file 1"}}}
    theirs = {
        "web1": {"file": {"/etc/a": "file 600", key: "file 2"}, "package": {"python3-apt:any": ""}},
        "web2": {"account": {"example": "5800"}},
    }
    assert manifest.differences(ours, ours) == []
    assert manifest.differences(ours, theirs) == [
        'web1: file /etc/a: "file 644" by Tierstack, "file 600" by Ansible',
        'web1: file /etc/b: "file 600" by Tierstack, nothing by Ansible',
        'web2: account example: nothing by Tierstack, "5800" by Ansible',
    ]


def test_changed_tasks_are_counted_over_all_hosts() -> None:
    """The recap counts, whatever tasks have printed before it; those that it counts are named."""
    said = """
TASK [x : changed=7 ] ***
changed: [db1] => (item=a)
changed: [db1] => (item=b)
TASK [y] ***
ok: [db1]
RUNNING HANDLER [z] ***
changed: [web1]
PLAY RECAP *****
db1   : ok=33   changed=25   unreachable=0    failed=0    skipped=2
web1  : ok=22   changed=3    unreachable=0    failed=0    skipped=2
"""
    assert playbook.changed_tasks(said) == 28
    assert playbook.names_of_changed_tasks(said) == ["x : changed=7 ", "z"]


def test_executions_are_those_of_the_busiest_host() -> None:
    """The host that waits longest decides, and the lock's command counts."""
    line = "    [pyinfra.connectors.ssh] Running command on {}: (pty=False) sh -c 'true'\n"
    assert executions(line.format("web1") * 3 + line.format("db1") * 2) == 4


def test_table_and_summary_say_the_ratios() -> None:
    """Each size has two lines; the summary tells how seconds grow."""
    rows = [row(4, 40.0, 4.0), row(16, 90.0, 8.0)]
    lines = report.table(rows).splitlines()
    assert len(lines) == 2 + 2 * 2
    assert len({line.count("|") for line in lines}) == 1
    assert "| 4 | fresh | 40.0 s | 200.0 s | 5.0 |" in lines[2]
    assert "| 16 | converged | 8.0 s | 80.0 s | 10.0 | 0.50 s | 16.0 | 11 | 2%, 3% |" in lines[5]
    assert "4 times as many, a converged run takes 2.0 times as long" in report.summary(rows)
    assert "times as many" not in report.summary(rows[:1])


def test_plot_has_a_point_for_each_figure() -> None:
    """Two panels of three lines; the slower is the higher, and all lie within."""
    rows = [row(4, 40.0, 4.0), row(8, 50.0, 5.0), row(32, 90.0, 9.0)]
    picture = ElementTree.fromstring(report.chart(rows))
    points = [(float(p.attrib["cx"]), float(p.attrib["cy"])) for p in picture.iter(f"{SVG}circle")]
    assert len(points) == 2 * 3 * len(rows)
    width, height = map(float, picture.attrib["viewBox"].split()[2:])
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert points[0][1] < points[3][1], "Ansible's seconds are more than Tierstack's"
    # One size alone is drawn too.
    assert "circle" in report.chart(rows[:1])


def test_figures_have_their_place_in_the_document() -> None:
    """They replace those of before; a document without the place is refused by name."""
    document = (CHECKOUT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    once = report.insert(document, "figures", "x \\1\n")
    assert "<!-- figures -->\nx \\1\n<!-- /figures -->" in once
    assert report.insert(once, "figures", "y\n").count("<!-- figures -->") == 1
    with pytest.raises(ValueError, match="there is no <!-- figures -->"):
        report.insert("# Figures\n", "figures", "x\n")
