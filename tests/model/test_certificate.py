"""A certificate of the user's is read as HAProxy and visitors would read it; the cluster's own renew."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from tests.model.conftest import SITES, Home
from tierstack.cli import main
from tierstack.model import InventoryError
from tierstack.model.certificate import CertificateError, read_pair
from tierstack.model.identity import authority
from tierstack.secrets import check_secrets, load_secrets, secrets_file

NOW = datetime.datetime.now(datetime.UTC)
DOMAINS = ["www.example.com", "example.com"]


class Issuer:
    """Somebody who signs certificates."""

    def __init__(self, name: str, above: Issuer | None = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.above = above or self
        self.pem = self.above.sign(self.name, self.key, [], 1000)

    def sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        domains: list[str],
        days: int,
        begins: int = 10,
        public: bool = True,
    ) -> str:
        """Return a certificate that ends in so many days; a public one says where its issuer's is."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - datetime.timedelta(days=begins))
            .not_valid_after(NOW + datetime.timedelta(days=days, hours=1))
        )
        if domains:
            names = [x509.DNSName(domain) for domain in domains]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if domains and public:
            url = x509.UniformResourceIdentifier("http://ca.example/middle.der")
            there = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, url)
            found = x509.AuthorityInformationAccess([there])
            builder = builder.add_extension(found, critical=False)
        if not domains:
            ca = x509.BasicConstraints(ca=True, path_length=None)
            builder = builder.add_extension(ca, critical=True)
        return (
            builder.sign(self.key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            .decode()
        )


ROOT = Issuer("Root")
MIDDLE = Issuer("Middle", ROOT)
KEY = ec.generate_private_key(ec.SECP256R1())


def pem_of(key: ec.EllipticCurvePrivateKey, passphrase: bytes = b"") -> str:
    """Return a key as PEM."""
    locked: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, locked).decode()


def leaf(
    domains: list[str] = DOMAINS, days: int = 60, begins: int = 10, public: bool = True
) -> str:
    """Return the certificate of a site."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "site")])
    return MIDDLE.sign(name, KEY, domains, days, begins, public)


LEAF = leaf()
GOOD = LEAF + MIDDLE.pem + pem_of(KEY)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        MIDDLE.pem + LEAF + pem_of(KEY),
        pem_of(KEY) + LEAF + MIDDLE.pem,
        (LEAF + MIDDLE.pem).rstrip("\n") + pem_of(KEY).rstrip("\n"),
        GOOD.replace("\n", "\r\n"),
        f"subject=CN = site\n{GOOD}",
    ],
    ids=["good", "chain first", "key first", "no line breaks", "CRLF", "words"],
)
def test_order_and_line_ends_are_mended(text: str, tmp_path: Path) -> None:
    """Whatever the order, OpenSSL reads the same certificate, chain and key from what HAProxy gets."""
    pair = read_pair(text, DOMAINS, NOW)
    assert pair.pem == GOOD
    assert pair.warnings == ()
    (tmp_path / "root.pem").write_text(ROOT.pem, encoding="utf-8")
    (tmp_path / "site.pem").write_text(pair.pem, encoding="utf-8")
    # The first certificate is the site's, and the others lead to the root.
    chain = ["openssl", "verify", "-CAfile", "root.pem", "-untrusted", "site.pem", "site.pem"]
    subprocess.run(chain, cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (leaf(days=-1) + MIDDLE.pem + pem_of(KEY), "has ended on "),
        (leaf(begins=-2) + MIDDLE.pem + pem_of(KEY), "is not good before "),
        (
            leaf(["old.example.net"]) + MIDDLE.pem + pem_of(KEY),
            "is for old.example.net, and for none of the sites' domains (www.example.com, example.com);"
            " get one for these",
        ),
        (
            LEAF + MIDDLE.pem + pem_of(ROOT.key),
            "holds a private key that is not the one of its certificate (www.example.com, example.com);"
            " write the key with which that was asked for",
        ),
        (
            LEAF + MIDDLE.pem + pem_of(KEY, b"secret"),
            "holds a key with a passphrase, which nobody can type when HAProxy starts; write the key"
            " without: openssl pkey -in site.pem -out privkey.pem",
        ),
        (
            LEAF + pem_of(KEY),
            "lacks the chain: the certificate of CN=Middle, which has signed it, is not there, and many"
            " programs refuse the site then; write fullchain.pem, not cert.pem",
        ),
        (
            LEAF + MIDDLE.pem,
            "holds no private key; write one file from both: cat fullchain.pem privkey.pem > site.pem",
        ),
        (
            pem_of(KEY),
            "holds no certificate; write one file from both: cat fullchain.pem privkey.pem > site.pem",
        ),
        (
            LEAF[:80] + LEAF[120:] + MIDDLE.pem + pem_of(KEY),
            "holds a certificate that cannot be read; copy it anew",
        ),
        (
            GOOD + pem_of(KEY),
            "holds 2 private keys; leave the one of the certificate",
        ),
    ],
)
def test_what_cannot_serve_is_refused(text: str, what: str) -> None:
    """Each in a sentence with what to write instead."""
    with pytest.raises(CertificateError) as caught:
        read_pair(text, DOMAINS, NOW)
    assert str(caught.value).startswith(what)


def test_certificate_that_only_some_know_serves() -> None:
    """One for a proxy in front, or of a private root: its issuer can be had nowhere."""
    pair = read_pair(leaf(public=False) + pem_of(KEY), DOMAINS, NOW)
    assert pair.warnings == (
        "comes without the certificate of CN=Middle, which has signed it: only who knows that one"
        " already takes it",
    )


def test_end_in_the_chain_is_told() -> None:
    """Visitors' programs may have another way to a root: it is the site's own end that counts."""
    old = MIDDLE.above.sign(MIDDLE.name, MIDDLE.key, [], -5)
    pair = read_pair(LEAF + old + pem_of(KEY), DOMAINS, NOW)
    assert pair.warnings == (
        "the certificate of CN=Middle in its chain has ended; take a newer chain",
    )
    assert pair.ends == x509.load_pem_x509_certificate(LEAF.encode()).not_valid_after_utc


def test_near_end_and_missing_names_are_told() -> None:
    """It serves, and somebody should know; an asterisk stands for one label."""
    near = read_pair(leaf(["example.com"], 20) + MIDDLE.pem + pem_of(KEY), DOMAINS, NOW)
    day = NOW + datetime.timedelta(days=20, hours=1)
    assert near.warnings == (
        "is not for www.example.com: browsers refuse the site there",
        f"ends on {day:%Y-%m-%d}, in 20 days; renew it",
    )
    wild = leaf(["*.example.com"], 22) + MIDDLE.pem + pem_of(KEY)
    assert read_pair(wild, ["www.example.com", "*.example.com"], NOW).warnings == ()
    assert "is not for a.b.example.com" in str(
        read_pair(wild, ["www.example.com", "a.b.example.com"], NOW).warnings
    )


def test_check_refuses_and_warns(home: Home) -> None:
    """`tierstack check` tells of the file; tasks for a bad night go on with what serves."""
    home.group("balancer", "certificate = 'site.pem'")
    file = home.path / "site.pem"
    file.write_text(leaf(days=-1) + MIDDLE.pem + pem_of(KEY), encoding="utf-8")
    file.chmod(0o600)
    (mistake,) = check_secrets(home.load())
    assert str(mistake).startswith(f"balancer.certificate: {file} has ended on ")
    file.write_text(leaf(["www.example.com"], 5) + MIDDLE.pem + pem_of(KEY), encoding="utf-8")
    day = NOW + datetime.timedelta(days=5, hours=1)
    home.group("all", SITES.replace('"www.example.com"', '"www.example.com", "example.com"'))
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert done.exit_code == 0, done.output
    assert (
        f"The certificate of the sites is good until {day:%Y-%m-%d}.\n"
        f"{file} is not for example.com: browsers refuse the site there.\n"
        f"{file} ends on {day:%Y-%m-%d}, in 5 days; renew it.\n"
    ) in done.output


def test_authority_near_its_end_is_made_anew_by_the_same_key(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the old or the new one trusts what either has signed: nothing fails meanwhile."""
    monkeypatch.setattr("tierstack.secrets._TEN_YEARS", datetime.timedelta(days=89))
    old = load_secrets(home.load())
    monkeypatch.undo()
    said = CliRunner().invoke(main, ["check", str(home.path / "prod.py")]).output
    day = NOW + datetime.timedelta(days=89)
    assert f"The cluster's own CA is good until {day:%Y-%m-%d}; the next deploy renews it." in said
    new = load_secrets(home.load())
    assert new["cluster.ca_key"] == old["cluster.ca_key"]
    assert new["hosts.db1.key"] == old["hosts.db1.key"]
    assert authority(new["cluster.ca_certificate"]) == authority(old["cluster.ca_certificate"])
    for name, value in (("ca", "cluster.ca_certificate"), ("leaf", "hosts.db1.certificate")):
        for age, secrets in (("old", old), ("new", new)):
            (home.path / f"{age}-{name}.pem").write_text(secrets[value], encoding="utf-8")
    for ca, signed in (("old", "new"), ("new", "old"), ("new", "new")):
        # As libpq does: OpenSSL's own look at the chain.
        subprocess.run(
            ["openssl", "verify", "-CAfile", f"{ca}-ca.pem", f"{signed}-leaf.pem"],
            cwd=home.path,
            check=True,
        )
    ends = [
        x509.load_pem_x509_certificate(new[name].encode()).not_valid_after_utc
        for name in ("hosts.db1.certificate", "front.certificate", "cluster.ca_certificate")
    ]
    assert max(ends) == ends[2] > NOW + datetime.timedelta(days=3000)
    assert load_secrets(home.load()).values == new.values


def test_printed_authority_is_the_users_to_renew(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a command prints is never replaced: it is refused within 30 days of its end."""
    monkeypatch.setattr("tierstack.secrets._TEN_YEARS", datetime.timedelta(days=40))
    old = load_secrets(home.load())
    monkeypatch.undo()
    file = secrets_file(home.load())
    (home.path / "ca.pem").write_text(old["cluster.ca_certificate"], encoding="utf-8")
    text = file.read_text(encoding="utf-8").splitlines()
    lines = [
        'ca_certificate = { command = ["cat", "ca.pem"] }' if line.startswith("ca_cert") else line
        for line in text
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert load_secrets(home.load())["cluster.ca_certificate"].strip() == (
        old["cluster.ca_certificate"].strip()
    )
    monkeypatch.setattr("tierstack.secrets._REFUSED_BEFORE", datetime.timedelta(days=50))
    with pytest.raises(
        InventoryError, match=r"ca_certificate: what its command prints does not fit"
    ):
        load_secrets(home.load())
