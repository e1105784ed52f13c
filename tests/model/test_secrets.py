"""Secrets are made once, kept for their owner only, and certificates follow the inventory."""

from __future__ import annotations

import stat

import pytest

from tests.model.conftest import HOSTS, Home
from tierstack.model import TierstackError
from tierstack.secrets import load_secrets, secrets_file


def test_secrets_are_made_once(home: Home) -> None:
    """A second run reads what the first has made; only the owner may read the file."""
    first = load_secrets(home.load())
    again = load_secrets(home.load())
    assert first.values == again.values
    assert stat.S_IMODE(secrets_file(home.load()).stat().st_mode) == 0o600
    assert first["sites.blog.database_password"] not in repr(first)


def test_certificate_follows_the_address(home: Home) -> None:
    """A host with another address gets another certificate; the others keep theirs."""
    first = load_secrets(home.load())
    home.inventory(HOSTS.replace("10.0.0.21", "10.0.0.29"))
    again = load_secrets(home.load())
    assert again["hosts.db1.certificate"] != first["hosts.db1.certificate"]
    assert again["hosts.db2.certificate"] == first["hosts.db2.certificate"]
    assert again["hosts.db1.key"] == first["hosts.db1.key"]


def test_readable_file_is_refused(home: Home) -> None:
    """A secrets file that others may read is not used."""
    load_secrets(home.load())
    file = secrets_file(home.load())
    file.chmod(0o644)
    with pytest.raises(TierstackError) as caught:
        load_secrets(home.load())
    assert str(caught.value) == f"{file} can be read by others; type: chmod 600 {file}"


def test_broken_file_is_refused_without_its_text(home: Home) -> None:
    """A secrets file that is not TOML is refused with the position, not with what stands there."""
    load_secrets(home.load())
    file = secrets_file(home.load())
    file.write_text('[cluster]\nreplication_password = "top-secret\n', encoding="utf-8")
    with pytest.raises(TierstackError) as caught:
        load_secrets(home.load())
    assert "line 2" in str(caught.value)
    assert "top-secret" not in str(caught.value)
