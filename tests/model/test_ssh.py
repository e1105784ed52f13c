"""Where SSH goes: to the address in a host's line, unless somebody says otherwise."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.model.conftest import HOSTS, Home
from tierstack.cli import main
from tierstack.engine import ssh_data
from tierstack.host_keys import see
from tierstack.model.graph import svg
from tierstack.model.shell import quoted


@pytest.fixture
def config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own SSH configuration, still without a line."""
    directory = tmp_path_factory.mktemp("user")
    (directory / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(directory))
    return directory / ".ssh" / "config"


def _goes_to(home: Home) -> dict[str, str]:
    """Return where SSH goes for each host; one that keeps its name is left out."""
    data = ssh_data(home.load())
    return {name: found["ssh_hostname"] for name, found in data.items() if "ssh_hostname" in found}


def test_address_of_the_line_is_taken(home: Home, config: Path) -> None:
    """The inventory that the documents print connects: no name server knows web1."""
    assert not config.exists()
    assert _goes_to(home) == {host.name: host.address for host in home.load().hosts}


def test_ssh_hostname_comes_first(home: Home, config: Path) -> None:
    """A host that is reached by another address says so in its line, or all do in group data."""
    home.inventory(HOSTS.replace('"10.0.0.10"', '"10.0.0.10", "ssh_hostname": "203.0.113.9"'))
    assert _goes_to(home)["lb1"] == "203.0.113.9"
    home.group("prod", 'ssh_hostname = "127.0.0.1"')
    assert _goes_to(home)["web1"] == "127.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "Host web1\n  HostName 203.0.113.11\n",
        "Host web? !web2\n  User ops\n",
        "Host *\n  User ops\nMatch host web1\n  HostName 203.0.113.11\n",
    ],
)
def test_users_ssh_configuration_is_heeded(home: Home, config: Path, text: str) -> None:
    """A host that the user's SSH knows by name is reached by that name, with all it says of it."""
    config.write_text(text, encoding="utf-8")
    found = _goes_to(home)
    assert "web1" not in found
    assert found["lb1"] == "10.0.0.10"


def test_general_ssh_configuration_names_nobody(home: Home, config: Path) -> None:
    """What is said of all hosts is no word on where one of them is."""
    config.write_text("Host *\n  ServerAliveInterval 30\n", encoding="utf-8")
    assert _goes_to(home)["web1"] == "10.0.0.11"


def test_port_of_ssh_is_shown_and_kept_open(home: Home) -> None:
    """An SSH server on another port: `check`, picture and firewall say that one."""
    home.inventory(HOSTS.replace('"10.0.0.10"', '"10.0.0.10", "ssh_port": 2200'))
    home.group("db", "ssh_port = 2201")
    cluster = home.load()
    shown = CliRunner().invoke(main, ["check", str(home.path / "prod.py")]).output
    for port in (22, 2200, 2201):
        assert re.search(rf"admin +all +tcp {port} +SSH\s", shown), shown
        assert f"tcp {port}</tspan>" in svg(cluster)
    for name, port in (("lb1", 2200), ("web1", 22), ("db2", 2201)):
        openings = [o.port for o in cluster.openings(cluster.host(name)) if o.purpose == "SSH"]
        assert openings == [port]


def test_way_through_a_jump_host_that_fails_is_told(home: Home, config: Path) -> None:
    """The jump host's own words, and not that something UNKNOWN has closed the connection."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        # ssh(1) looks for it in the account's home directory, whatever HOME says.
        config.write_text(f"Host web1\n  ProxyJump 127.0.0.1:{port}\n", encoding="utf-8")
        hosts = {"web1": {"ssh_hostname": "web1", "ssh_config_file": str(config)}}
        (seen,) = see(home.path / "prod.py", hosts)
    assert seen.wrong == (
        "is not reached by way of its jump host (ProxyJump or ProxyCommand in your SSH"
        f" configuration): ssh: connect to host 127.0.0.1 port {port}: Connection refused; log in to"
        " the jump host by ssh first"
    )


def test_commands_are_printed_to_be_pasted() -> None:
    """A directory with a blank in its name is one word."""
    assert quoted(Path("/home/me/my ops/prod.py")) == "'/home/me/my ops/prod.py'"
    assert quoted("~/my ops/prod.py") == "~/'my ops/prod.py'"
    assert quoted("~/ops/prod.py") == "~/ops/prod.py"
