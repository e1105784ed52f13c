"""Secrets of one inventory: generated at the first deploy, kept in one file beside it.

`prod.py` has `prod.secrets.toml`, mode 0600 and git-ignored. Every value may be replaced by hand, or
by a command that prints it. They are never pyinfra host data, which pyinfra prints.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import secrets as _random
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import click
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tierstack.model import Cluster, InventoryError, Mistake, TierstackError
from tierstack.model.certificate import CertificateError, Pair, ends_of, read_pair
from tierstack.model.identity import ID, SecretsAtHand, authority
from tierstack.model.passwords import check_password
from tierstack.model.raw import nearest
from tierstack.model.settings import VARIABLE
from tierstack.secrets_file import (
    Command,
    command_output,
    file_mistakes,
    locked,
    read_file,
    secrets_file_of,
    write_file,
)

_TEN_YEARS = datetime.timedelta(days=3650)

#: So long before its end a certificate of the cluster's own is made anew; one that a command prints
#: is the user's to renew, and refused when it is nearly over.
RENEWED_BEFORE, _REFUSED_BEFORE = datetime.timedelta(days=90), datetime.timedelta(days=30)


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

    def environment(self, site: str) -> dict[str, str]:
        """Return the secret variables of a site, sorted by name: the file's order may change."""
        prefix = _environment_of(site)
        return {
            name.removeprefix(prefix): value
            for name, value in sorted(self.values.items())
            if name.startswith(prefix)
        }


def _environment_of(site: str) -> str:
    """Return what the names of a site's secret variables begin with: a table of the user's own."""
    return f"sites.{site}.environment."


def secrets_file(cluster: Cluster) -> Path:
    """Return where the secrets of an inventory lie."""
    return secrets_file_of(cluster.inventory)


def check_secrets(cluster: Cluster) -> list[Mistake]:
    """
    Return all that is wrong with the secrets of a cluster, its certificate too; nothing is made.

    Commands are run, each once in this process: ask only when their values are needed.
    """
    return _given(cluster)[1] + _certificate_mistakes(cluster)


def front_certificate(cluster: Cluster) -> Pair:
    """
    Return the user's own certificate of the front door, in the order that HAProxy needs.

    Raises:
        CertificateError: HAProxy, or visitors, would not take it.
    """
    domains = [domain for site in cluster.sites for domain in site.settings.domains]
    text = _certificate_file(cluster).read_text(encoding="utf-8", errors="replace")
    return read_pair(text, domains, datetime.datetime.now(datetime.UTC))


def certificate_news(cluster: Cluster) -> list[str]:
    """Return until when the cluster's certificates are good, and what to do, in sentences; none is made."""
    news = []
    settings = cluster.settings.balancer
    if settings.https and settings.certificate is not None:
        pair = front_certificate(cluster)
        news.append(f"The certificate of the sites is good until {pair.ends:%Y-%m-%d}.")
        news += [f"{_certificate_file(cluster)} {warning}." for warning in pair.warnings]
    file = secrets_file(cluster)
    stored = {name: value for name, value in read_file(file).items() if isinstance(value, str)}
    now = datetime.datetime.now(datetime.UTC)
    for name, what in (
        ("cluster.ca_certificate", "The cluster's own CA"),
        ("front.certificate", "The self-signed certificate of the sites"),
    ):
        if name not in stored or (name.startswith("front.") and settings.certificate is not None):
            continue
        if ends := ends_of([stored[name]]):
            soon = "; the next deploy renews it" if ends - now < RENEWED_BEFORE else ""
            news.append(f"{what} is good until {ends:%Y-%m-%d}{soon}.")
    return news


def _certificate_file(cluster: Cluster) -> Path:
    return cluster.home / Path(cluster.settings.balancer.certificate or "").expanduser()


def _certificate_mistakes(cluster: Cluster) -> list[Mistake]:
    settings = cluster.settings.balancer
    if not settings.https or settings.certificate is None:
        return []
    try:
        front_certificate(cluster)
    except CertificateError as error:
        return [Mistake("balancer.certificate", f"{_certificate_file(cluster)} {error}")]
    return []


def secrets_at_hand(cluster: Cluster) -> SecretsAtHand:
    """
    Return what the secrets of a cluster are before any is made.

    Raises:
        InventoryError: with all that is wrong with the file, its values and its commands.
    """
    file = secrets_file(cluster)
    printed, mistakes = _given(cluster)
    if mistakes:
        raise InventoryError(cluster.inventory.name, mistakes)
    stored = read_file(file)
    values = {name: value for name, value in stored.items() if isinstance(value, str)} | printed
    return SecretsAtHand(
        file=file.name,
        id=values.get(ID, ""),
        names=frozenset(values),
        wanted=frozenset(_wanted(cluster, dict(values), printed)),
        authority=authority(values.get("cluster.ca_certificate", "")),
    )


def load_secrets(cluster: Cluster) -> Secrets:
    """
    Read the secrets of a cluster, and make and save those that are missing; say which were made.

    Raises:
        InventoryError: with all that is wrong with the file, its values and its commands.
    """
    file = secrets_file(cluster)
    # Before the lock: a command may ask for a passphrase, and other hosts' greenlets go on.
    printed, mistakes = _given(cluster)
    if mistakes:
        raise InventoryError(cluster.inventory.name, mistakes)
    with locked(file):
        stored = read_file(file)
        commands = {name: value for name, value in stored.items() if isinstance(value, Command)}
        values = {name: value for name, value in stored.items() if isinstance(value, str)} | printed
        before = dict(values)
        for name, make in _wanted(cluster, values, printed).items():
            if name not in values:
                values[name] = make()
        replaced = [name for name, value in printed.items() if values.get(name) != value]
        if replaced:
            raise InventoryError(cluster.inventory.name, _unfit(file, replaced))
        if values != before:
            write_file(file, {**values, **commands})
            made = sorted(name for name, value in values.items() if before.get(name) != value)
            click.echo(f"{file.name}: made {', '.join(made)}; keep a copy of the file", err=True)
    return Secrets(file, values)


def _given(cluster: Cluster) -> tuple[dict[str, str], list[Mistake]]:
    """Return what the commands print, by name, and all that is wrong with the given secrets."""
    file = secrets_file(cluster)
    mistakes = file_mistakes(file)
    if mistakes:
        return {}, mistakes
    printed: dict[str, str] = {}
    known = set(_wanted(cluster, {}, ()))
    ours = ("cluster.", *(f"sites.{site.name}." for site in cluster.sites))
    for name, value in read_file(file).items():
        where = f"{file.name}: {name}"
        if variable := _is_variable(cluster, name):
            mistakes += [Mistake(where, variable)] if isinstance(variable, str) else []
        elif name not in known:
            # What a removed host or site had is kept; a slip would be a password that nobody uses.
            for prefix in filter(name.startswith, ours):
                near = nearest(name, {other for other in known if other.startswith(prefix)})
                mistakes.append(Mistake(where, f"unknown; {near}"))
            continue
        text, mistake = (
            command_output(name, value, file) if isinstance(value, Command) else (value, None)
        )
        if mistake:
            mistakes.append(mistake)
            continue
        if isinstance(value, Command):
            printed[name] = text
        if name.endswith("_password"):
            try:
                check_password(where, text)
            except TierstackError as error:
                mistakes.append(Mistake(where, str(error).removeprefix(f"{where}: ")))
    return printed, mistakes


def _is_variable(cluster: Cluster, name: str) -> bool | str:
    """Return whether a name is that of a secret variable of a site; or what is wrong with it."""
    for site in cluster.sites:
        prefix = _environment_of(site.name)
        if not name.startswith(prefix):
            continue
        variable = name.removeprefix(prefix)
        if not re.fullmatch(VARIABLE, variable):
            return "is not the name of a variable; write letters, digits and _"
        if variable in site.settings.environment:
            return f"stands in environment of {site.name}, too; delete one of both"
        return True
    return False


def _unfit(file: Path, names: Iterable[str]) -> list[Mistake]:
    what = (
        "what its command prints does not fit the other keys or the inventory's names, or is over"
        " within 30 days; renew it, or delete the line for one of the cluster's own"
    )
    return [Mistake(f"{file.name}: {name}", what) for name in names]


def _wanted(
    cluster: Cluster, values: dict[str, str], printed: Collection[str]
) -> dict[str, Callable[[], str]]:
    """
    Return how to make each secret, in the order in which they need each other.

    Args:
        cluster: the cluster.
        values: the secrets that there are; those that must be made anew are taken out.
        printed: names of those that commands have printed.
    """
    wanted: dict[str, Callable[[], str]] = {
        ID: lambda: _random.token_hex(8),
        "cluster.replication_password": _password,
    }
    for site in cluster.sites:
        wanted[f"sites.{site.name}.database_password"] = _password
        wanted[f"sites.{site.name}.secret_key"] = lambda: _random.token_urlsafe(48)

    def over(name: str) -> bool:
        """Return whether a certificate has to be another one by now."""
        before = _REFUSED_BEFORE if name in printed else RENEWED_BEFORE
        return _ends_within(values[name], before)

    # Of the same key and name: what either has signed, whoever knows only the other one takes.
    authority_name = "cluster.ca_certificate"
    if authority_name in values and ("cluster.ca_key" not in values or over(authority_name)):
        values.pop(authority_name)

    def ca_key() -> str:
        return _key_text(ec.generate_private_key(ec.SECP256R1()))

    def certificate(prefix: str, common_name: str, names: list[x509.GeneralName]) -> None:
        """Want a key and a certificate for these names; one for others, or nearly over, is made anew."""
        name = f"{prefix}.certificate"
        if name in values and (over(name) or not _fits(values, prefix, names)):
            values.pop(name)
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
    if cluster.exporter and cluster.settings.media.share == "sshfs":
        wanted["share.client_key"] = _ssh_key
        wanted[f"share.{cluster.exporter.name}_host_key"] = _ssh_key
    if cluster.exporter:
        wanted["share.copy_password"] = _password
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
        # Not beyond its authority's end.
        .not_valid_after(min(now + _TEN_YEARS, ca.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(_ec_key(ca_key_text), hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _ends_within(pem: str, time: datetime.timedelta) -> bool:
    """Return whether a certificate ends so soon, or is none."""
    try:
        found = x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        return True
    return found.not_valid_after_utc < datetime.datetime.now(datetime.UTC) + time


def _fits(values: dict[str, str], prefix: str, names: list[x509.GeneralName]) -> bool:
    """Return whether a certificate is for these names and key, by this authority."""
    needed = (f"{prefix}.certificate", f"{prefix}.key", "cluster.ca_certificate")
    if not all(name in values for name in needed):
        return False
    try:
        found, ca = (
            x509.load_pem_x509_certificate(values[name].encode()) for name in (needed[0], needed[2])
        )
        found.verify_directly_issued_by(ca)
    except (ValueError, InvalidSignature):
        return False
    alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return (
        list(alternative.value) == names
        and found.public_key() == _ec_key(values[needed[1]]).public_key()
    )
