"""The certificate of the front door: a file of the user's, read as HAProxy would read it.

What can be mended without a doubt is (order, line ends); the rest is said. Source: HAProxy 2.6
configuration manual, "crt"; RFC 8446, 4.4.2.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import AuthorityInformationAccessOID

#: An end that is nearer is told, in days: time enough to see why nobody has renewed it.
WARN_DAYS = 21

#: Blocks may follow each other without a line break: cat of files whose last line has none.
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)

_LOCKED = ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")


class CertificateError(ValueError):
    """A file that HAProxy, or visitors, would not take; its text says what to write instead."""


@dataclass(frozen=True)
class Pair:
    """
    A certificate with its chain and its key.

    Args:
        pem: the site's certificate, its chain, the key.
        ends: the day after which somebody in the chain is not good any more.
        warnings: what is worth knowing, in sentences.
    """

    pem: str
    ends: datetime.datetime
    warnings: tuple[str, ...] = ()


def read_pair(text: str, domains: Sequence[str], now: datetime.datetime) -> Pair:
    """
    Return the certificate of a file.

    Args:
        text: the file's text.
        domains: the sites' domains, which it should be for.
        now: the time.

    Raises:
        CertificateError: HAProxy would not start with it, or no visitor would accept it.
    """
    blocks = [(found[1], found[0]) for found in _BLOCK.finditer(text.replace("\r", ""))]
    key_text, key = _key([block for kind, block in blocks if kind.endswith("PRIVATE KEY")])
    certificates = [_certificate(block) for kind, block in blocks if kind == "CERTIFICATE"]
    chain = _chain(certificates, key)
    leaf = chain[0]
    ends = leaf.not_valid_after_utc
    if leaf.not_valid_before_utc > now:
        begins = leaf.not_valid_before_utc
        raise CertificateError(f"is not good before {begins:%Y-%m-%d %H:%M} UTC; wait, or renew it")
    if ends <= now:
        raise CertificateError(f"has ended on {ends:%Y-%m-%d %H:%M} UTC; renew it")
    names = names_of(leaf)
    missing = [domain for domain in domains if not _covers(names, domain)]
    if len(missing) == len(domains):
        raise CertificateError(
            f"is for {', '.join(names) or 'no host name'}, and for none of the sites' domains"
            f" ({', '.join(domains)}); get one for these"
        )
    # Programs find another way to a root that they trust, or visitors are a proxy that knows better.
    warnings = [
        f"the certificate of {other.subject.rfc4514_string()} in its chain has ended; take a newer chain"
        for other in chain[1:]
        if other.not_valid_after_utc <= now
    ]
    if len(chain) == 1 and not _signed_by(leaf, leaf):
        warnings.append(
            f"comes without the certificate of {leaf.issuer.rfc4514_string()}, which has signed it: only"
            " who knows that one already takes it"
        )
    if missing:
        warnings.append(f"is not for {', '.join(missing)}: browsers refuse the site there")
    if ends - now < datetime.timedelta(days=WARN_DAYS):
        warnings.append(f"ends on {ends:%Y-%m-%d}, in {(ends - now).days} days; renew it")
    pem = "".join(
        certificate.public_bytes(serialization.Encoding.PEM).decode() for certificate in chain
    )
    return Pair(f"{pem}{key_text}\n", ends, tuple(warnings))


def ends_of(pems: Iterable[str]) -> datetime.datetime | None:
    """Return the day after which one of these certificates is not good any more; None without any."""
    ends = [_certificate(pem).not_valid_after_utc for pem in pems]
    return min(ends, default=None)


def names_of(certificate: x509.Certificate) -> list[str]:
    """Return the host names that a certificate is for; browsers look at no common name."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in found.value.get_values_for_type(x509.DNSName)]


def _key(blocks: list[str]) -> tuple[str, PrivateKeyTypes]:
    if not blocks:
        raise CertificateError(
            "holds no private key; write one file from both: cat fullchain.pem privkey.pem > site.pem"
        )
    if any(sign in blocks[0] for sign in _LOCKED):
        raise CertificateError(
            "holds a key with a passphrase, which nobody can type when HAProxy starts; write the key"
            " without: openssl pkey -in site.pem -out privkey.pem"
        )
    if blocks[1:]:
        raise CertificateError(
            f"holds {len(blocks)} private keys; leave the one of the certificate"
        )
    try:
        return blocks[0], serialization.load_pem_private_key(blocks[0].encode(), password=None)
    except (ValueError, TypeError):
        raise CertificateError("holds a private key that cannot be read; copy it anew") from None


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        raise CertificateError("holds a certificate that cannot be read; copy it anew") from None


def _chain(certificates: list[x509.Certificate], key: PrivateKeyTypes) -> list[x509.Certificate]:
    """Return the key's certificate, whoever has signed it, and so on; then what belongs nowhere."""
    if not certificates:
        raise CertificateError(
            "holds no certificate; write one file from both: cat fullchain.pem privkey.pem > site.pem"
        )
    own = key.public_key()
    leaf = next((one for one in certificates if one.public_key() == own), None)
    if leaf is None:
        raise CertificateError(
            f"holds a private key that is not the one of its certificate ({_subject(certificates[0])});"
            " write the key with which that was asked for"
        )
    chain, rest = [leaf], [one for one in certificates if one != leaf]
    while issuer := next((one for one in rest if _signed_by(chain[-1], one)), None):
        chain.append(issuer)
        rest.remove(issuer)
    # One for a proxy in front or for a private network says of no issuer where that can be had.
    if len(chain) == 1 and not _signed_by(leaf, leaf) and _names_its_issuer(leaf):
        raise CertificateError(
            f"lacks the chain: the certificate of {leaf.issuer.rfc4514_string()}, which has signed it,"
            " is not there, and many programs refuse the site then; write fullchain.pem, not cert.pem"
        )
    return chain + rest


def _names_its_issuer(leaf: x509.Certificate) -> bool:
    """Return whether a certificate says where its issuer's is, as public ones do. Source: RFC 5280, 4.2.2.1."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except x509.ExtensionNotFound:
        return False
    wanted = AuthorityInformationAccessOID.CA_ISSUERS
    return any(said.access_method == wanted for said in found.value)


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _subject(certificate: x509.Certificate) -> str:
    return ", ".join(names_of(certificate)) or certificate.subject.rfc4514_string()


def _covers(names: Sequence[str], domain: str) -> bool:
    """Return whether a name fits; an asterisk stands for one label. Source: RFC 6125, 6.4.3."""
    parent = domain.partition(".")[2]
    return domain in names or (bool(parent) and f"*.{parent}" in names)
