"""Secrets of one inventory: generated at the first deploy, kept in one file beside it.

`prod.py` has `prod.secrets.toml`, mode 0600 and git-ignored. Every value may be replaced by hand.
They are never pyinfra host data, which pyinfra prints.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import json
import os
import secrets as _random
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tierstack.model import Cluster, TierstackError

_TEN_YEARS = datetime.timedelta(days=3650)
_HEADER = (
    "# Secrets of this cluster. Keep it out of version control; whoever reads it owns the cluster.\n"
    "# Replace any value; delete a line and the next deploy makes a new one.\n"
)


@dataclass(frozen=True)
class Secrets:
    """
    Secret values by name; reading one that is missing makes it.

    Names are dotted, e.g. `sites.example.database_password`, `cluster.replication_password`.
    """

    file: Path
    values: dict[str, str]

    def __repr__(self) -> str:
        return f"Secrets({self.file.name})"

    def __getitem__(self, name: str) -> str:
        return self.values[name]


def secrets_file(cluster: Cluster) -> Path:
    """Return where the secrets of an inventory lie."""
    return cluster.inventory.with_suffix(".secrets.toml")


def load_secrets(cluster: Cluster) -> Secrets:
    """
    Read the secrets of a cluster, and make and save those that are missing.

    Raises:
        TierstackError: the file cannot be read, or others than its owner may read it.
    """
    file = secrets_file(cluster)
    with _locked(file):
        values = _read(file)
        before = dict(values)
        for name, make in _wanted(cluster, values).items():
            if name not in values:
                values[name] = make()
        if values != before:
            _write(file, values)
    return Secrets(file, values)


def _wanted(cluster: Cluster, values: dict[str, str]) -> dict[str, Callable[[], str]]:
    """Return how to make each secret, in the order in which they need each other."""
    wanted: dict[str, Callable[[], str]] = {"cluster.replication_password": _password}
    for site in cluster.sites:
        wanted[f"sites.{site.name}.database_password"] = _password
        wanted[f"sites.{site.name}.secret_key"] = lambda: _random.token_urlsafe(48)

    if "cluster.ca_key" not in values:
        values.pop("cluster.ca_certificate", None)

    def ca_key() -> str:
        return _key_text(ec.generate_private_key(ec.SECP256R1()))

    def certificate(prefix: str, common_name: str, names: list[x509.GeneralName]) -> None:
        """Want a key and a certificate for these names; one for others, or nearly over, is made anew."""
        if not _fits(values, prefix, names):
            values.pop(f"{prefix}.certificate", None)
        wanted[f"{prefix}.key"] = ca_key
        wanted[f"{prefix}.certificate"] = lambda: _certificate(
            values[f"{prefix}.key"],
            values["cluster.ca_key"],
            values["cluster.ca_certificate"],
            common_name,
            names,
        )

    wanted["cluster.ca_key"] = ca_key
    wanted["cluster.ca_certificate"] = lambda: _ca_certificate(
        cluster.name, values["cluster.ca_key"]
    )
    for host in cluster.tier("db"):
        address = x509.IPAddress(ipaddress.ip_address(host.address))
        certificate(f"hosts.{host.name}", host.name, [x509.DNSName(host.name), address])
    if cluster.settings.media.share == "sshfs":
        wanted["share.client_key"] = _ssh_key
        wanted[f"share.{cluster.exporter.name}_host_key"] = _ssh_key
    if cluster.settings.balancer.https and cluster.settings.balancer.certificate is None:
        domains = sorted({domain for site in cluster.sites for domain in site.settings.domains})
        names: list[x509.GeneralName] = [x509.DNSName(domain) for domain in domains]
        certificate("front", cluster.sites[0].settings.domains[0], names)
    return wanted


def ssh_public_key(private: str) -> str:
    """Return the public half of an SSH key, as `ssh-ed25519 AAAA…`, without comment."""
    key = serialization.load_ssh_private_key(private.encode(), password=None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


def _password() -> str:
    return _random.token_urlsafe(24)


def _ssh_key() -> str:
    return (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )


def _key_text(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def _ec_key(text: str) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(text.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TierstackError(
            "a key in the secrets file is not an elliptic-curve key; delete its line"
        )
    return key


def _ca_certificate(cluster_name: str, key_text: str) -> str:
    key = _ec_key(key_text)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{cluster_name} cluster")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _TEN_YEARS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _certificate(
    key_text: str, ca_key_text: str, ca_text: str, common_name: str, names: list[x509.GeneralName]
) -> str:
    """Return a server certificate, signed by the cluster's own authority."""
    ca = x509.load_pem_x509_certificate(ca_text.encode())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])]))
        .issuer_name(ca.subject)
        .public_key(_ec_key(key_text).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _TEN_YEARS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(_ec_key(ca_key_text), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _fits(values: dict[str, str], prefix: str, names: list[x509.GeneralName]) -> bool:
    """Return whether a certificate is for these names and key, by this authority, and not nearly over."""
    needed = (f"{prefix}.certificate", f"{prefix}.key", "cluster.ca_certificate")
    if not all(name in values for name in needed):
        return False
    found, ca = (
        x509.load_pem_x509_certificate(values[name].encode()) for name in (needed[0], needed[2])
    )
    try:
        found.verify_directly_issued_by(ca)
    except (ValueError, InvalidSignature):
        return False
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=30)
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return (
        found.not_valid_after_utc > soon
        and list(alternative.value) == names
        and found.public_key() == _ec_key(values[needed[1]]).public_key()
    )


# The file


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the file's lock: two runs at once must not each make a password of their own."""
    with file.with_name(f".{file.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    if file.stat().st_mode & 0o077:
        raise TierstackError(f"{file} can be read by others; type: chmod 600 {file}")
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        # The error's text may quote a secret; its position does not.
        position = str(error).rpartition("(at ")[2].rstrip(")")
        raise TierstackError(f"{file} is not valid TOML ({position}); correct that line") from None
    return dict(_flat(tables, ""))


def _flat(table: dict[str, object], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{key}.")
        else:
            found.append((prefix + key, str(value)))
    return found


def _write(file: Path, values: dict[str, str]) -> None:
    sections: dict[str, list[str]] = {}
    for name in sorted(values):
        section, _, key = name.rpartition(".")
        # A JSON string is a TOML string; names are quoted since host names may hold dots.
        sections.setdefault(section, []).append(
            f"{key} = {json.dumps(values[name], ensure_ascii=False)}"
        )
    text = _HEADER + "".join(
        f"\n[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items()
    )
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(temporary).replace(file)  # mkstemp makes it 0600
