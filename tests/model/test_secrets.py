"""Secrets are made once, kept for their owner only, and certificates follow the inventory."""

from __future__ import annotations

import json
import stat
import tomllib
from typing import Any

import pytest
from cryptography import x509

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


@pytest.mark.parametrize("name", ["hosts.db1.key", "cluster.ca_key", "cluster.ca_certificate"])
def test_deleted_key_takes_its_certificates_with_it(home: Home, name: str) -> None:
    """A line is deleted: what hung on it is made anew too, and all fits together again."""
    first = load_secrets(home.load())
    file = secrets_file(home.load())
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    table = tables
    *path, last = name.split(".")
    for part in path:
        table = table[part]
    del table[last]
    file.write_text(_toml(tables), encoding="utf-8")
    again = load_secrets(home.load())
    assert again["hosts.db1.certificate"] != first["hosts.db1.certificate"]
    ca = x509.load_pem_x509_certificate(again["cluster.ca_certificate"].encode())
    for prefix in ("hosts.db1", "hosts.db2", "front"):
        certificate = x509.load_pem_x509_certificate(again[f"{prefix}.certificate"].encode())
        certificate.verify_directly_issued_by(ca)
    assert again["sites.blog.secret_key"] == first["sites.blog.secret_key"]


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    values = {key: value for key, value in table.items() if isinstance(value, str)}
    text = f"[{prefix}]\n" if values else ""
    text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    for key, value in table.items():
        if isinstance(value, dict):
            text += _toml(value, f"{prefix}.{key}" if prefix else key)
    return text
