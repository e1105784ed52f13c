"""The command looks and tells; its exit status says whether all is right."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.model.conftest import HOSTS, SITES, Home
from tierstack.cli import main
from tierstack.lab.control import what_runs


def test_check_prints_the_cluster(home: Home) -> None:
    """A right inventory: tiers, sizes and flows are shown, status 0."""
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert done.exit_code == 0, done.output
    for piece in ("web1", "10.0.0.21", "10 workers", "tcp 5432", "Site blog: www.example.com"):
        assert piece in done.output


@pytest.mark.parametrize(
    ("balancers", "expected"),
    [
        (
            ["8.8.4.4"],
            "DNS: www.example.com and example.com: an A record for 8.8.4.4.\n",
        ),
        (
            ["8.8.4.4", "8.8.8.8"],
            "DNS: www.example.com and example.com: an A record for each of 8.8.4.4 and 8.8.8.8,"
            " which share visitors (round-robin DNS).\n",
        ),
        (
            ["10.0.0.10"],
            "DNS: www.example.com and example.com: an A record for 10.0.0.10.\n"
            "10.0.0.10 is not public: for visitors from outside, write the public address that"
            " leads there instead.\n",
        ),
        (
            ["10.0.0.9", "10.0.0.10"],
            "DNS: www.example.com and example.com: an A record for each of 10.0.0.9 and 10.0.0.10,"
            " which share visitors (round-robin DNS).\n"
            "10.0.0.9 and 10.0.0.10 are not public: for visitors from outside, write the public"
            " address that leads to each instead.\n",
        ),
    ],
)
def test_check_prints_what_name_servers_are_to_say(
    home: Home, balancers: list[str], expected: str
) -> None:
    """A record for every balancer, under every domain; nobody is told that NAT is none."""
    lines = [
        (f"lb{number}", {"address": address, "memory_mb": 1024})
        for number, address in enumerate(balancers, 1)
    ]
    home.inventory(HOSTS, f"\nbalancer = {lines!r}")
    home.group("all", SITES.replace('"www.example.com"', '"www.example.com", "example.com"'))
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert done.exit_code == 0, done.output
    assert done.output.partition("/blog\n")[2].partition("MEDIA_ROOT")[0] == expected


def test_check_prints_all_mistakes(home: Home) -> None:
    """A wrong inventory: the whole list on standard error, status 2."""
    home.group("web", "wokers = 5\nport = 0")
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert done.exit_code == 2
    assert done.stderr.replace(f"{home.path}/", "") == (
        "prod.py: 2 errors, no host was touched\n"
        "  web.port: 0 is too small; write at least 1\n"
        "  web.wokers: unknown; did you mean workers?\n"
    )


def test_missing_inventory_is_told(home: Home) -> None:
    """A path that leads nowhere is told in a sentence."""
    done = CliRunner().invoke(main, ["check", "nowhere.py"])
    assert (done.exit_code, done.stderr) == (
        2,
        "nowhere.py: no such inventory; write the path of a file\n",
    )


def test_graph_writes_a_file(home: Home) -> None:
    """The picture goes to the file that was asked for, into a folder that need not exist."""
    target = home.path / "out" / "cluster.svg"
    done = CliRunner().invoke(main, ["graph", str(home.path / "prod.py"), "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert target.read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        ([], ["bash", "-l"]),
        (["ls", "/"], ["ls", "/"]),
        (["hostname"], ["hostname"]),
        (["ls / | wc -l"], ["sh", "-c", "ls / | wc -l"]),
    ],
)
def test_single_word_with_blanks_is_for_a_shell(words: list[str], argv: list[str]) -> None:
    """`tierstack lab shell web1 'ls /'` means what `ssh web1 'ls /'` does."""
    assert what_runs(words) == argv
