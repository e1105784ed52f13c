"""The lab's settings, and the lines that inventories get from them."""

from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tierstack.lab import LabError, Settings, lab_host


def test_lab_host_is_a_line_of_an_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lab host has its address, its size, and SSH settings that accept no unknown key."""
    monkeypatch.setenv("TIERSTACK_LAB_SUBNET", "10.9.8.0/24")
    monkeypatch.setenv("TIERSTACK_LAB_DIR", "/srv/lab")

    assert lab_host("web1", 11, memory_mb=1024, workers=4) == (
        "web1",
        {
            "address": "10.9.8.11",
            "ssh_hostname": "10.9.8.11",
            "ssh_user": "root",
            "ssh_key": "/srv/lab/id_ed25519",
            "ssh_known_hosts_file": "/srv/lab/known_hosts",
            "ssh_strict_host_key_checking": "yes",
            "memory_mb": 1024,
            "workers": 4,
        },
    )


def test_lab_host_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing needs to be set."""
    monkeypatch.delenv("TIERSTACK_LAB_SUBNET", raising=False)
    monkeypatch.delenv("TIERSTACK_LAB_DIR", raising=False)

    name, data = lab_host("db1", 21)

    assert (name, data["address"], data["memory_mb"]) == ("db1", "10.77.21.21", 512)


@pytest.mark.parametrize("number", [1, 255])
def test_lab_host_refuses_a_number_that_is_no_host(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Number 1 is this machine, and the last one is the broadcast address."""
    monkeypatch.setenv("TIERSTACK_LAB_SUBNET", "10.9.8.0/24")

    with pytest.raises(LabError) as refused:
        lab_host("web1", number)

    assert str(refused.value) == (
        f"web1: {number} is not a host number of 10.9.8.0/24; choose one from 2 to 254"
    )


def test_settings_come_from_the_environment() -> None:
    """Two variables set up a second lab; the image cache is shared."""
    settings = Settings.from_environment(
        {"TIERSTACK_LAB_SUBNET": "10.9.0.0/16", "TIERSTACK_LAB_DIR": "/srv/lab"}
    )

    assert settings == Settings(directory=Path("/srv/lab"), subnet=IPv4Network("10.9.0.0/16"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "10.77.21.5/24",
            'TIERSTACK_LAB_SUBNET: "10.77.21.5/24" is not an IPv4 network '
            '(10.77.21.5/24 has host bits set); write e.g. "10.77.21.0/24"',
        ),
        (
            "10.77.21.0/30",
            'TIERSTACK_LAB_SUBNET: "10.77.21.0/30" is not of a useful size; '
            'write a network from /16 to /28, e.g. "10.77.21.0/24"',
        ),
    ],
)
def test_a_subnet_that_cannot_be_used(text: str, message: str) -> None:
    """A wrong subnet is refused with what to write instead."""
    with pytest.raises(LabError) as refused:
        Settings.from_environment({"TIERSTACK_LAB_SUBNET": text})

    assert str(refused.value) == message
