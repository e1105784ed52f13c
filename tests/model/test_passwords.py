"""Passwords in PostgreSQL's forms: any text, and never the text itself on the server."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from tierstack.model import TierstackError
from tierstack.model.passwords import (
    check_password,
    pgpass_line,
    same_password,
    saslprep,
    scram_verifier,
)

AWKWARD = "p%40a's$\"@:/\\#é"


def test_verifier_is_that_of_the_standard() -> None:
    """The verifier proves the example of RFC 7677, section 3, in both directions."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    method, _, keys = scram_verifier("pencil", salt).split("$")
    stored_key, server_key = (base64.b64decode(key) for key in keys.split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    ).encode()
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    signature = hmac.digest(stored_key, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
    assert method == "SCRAM-SHA-256"
    assert stored_key == hashlib.sha256(client_key).digest()
    expected = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    assert expected == base64.b64encode(hmac.digest(server_key, message, "sha256")).decode()


def test_verifier_tells_nothing_of_the_password() -> None:
    """Neither the password nor a plain hash of it stands in what the server stores."""
    verifier = scram_verifier(AWKWARD, b"0123456789abcdef")
    assert AWKWARD not in verifier
    assert verifier.startswith("SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$")


@pytest.mark.parametrize("password", [AWKWARD, "plain", " blanks ", "emoji😀", "العربية"])
def test_same_password_is_recognised(password: str) -> None:
    """A stored verifier is known again, whatever its salt, and only for its password."""
    verifier = scram_verifier(password, b"some salt")
    digest = hashlib.sha256(verifier.encode()).hexdigest()
    salt = base64.b64encode(b"some salt").decode()
    assert same_password(password, salt, 4096, digest)
    assert not same_password(password + "x", salt, 4096, digest)


def test_role_without_scram_has_no_password_of_ours() -> None:
    """A role without password, or with an MD5 one, gets a new verifier."""
    assert not same_password("plain", "", 0, "")


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("plain \x07", "plain \x07"),
        ("a\u00a0b", "a b"),
        ("soft\u00adhyphen\u00e9", "softhyphen\u00e9"),
        ("\u2168", "IX"),
        ("e\u0301", "\u00e9"),
        ("\u0627a", "\u0627a"),  # Both directions: no normal form, taken as it is.
        ("\u00ad", "\u00ad"),  # Nothing would be left.
        ("\u00e9\u0007", "\u00e9\u0007"),  # A control character.
    ],
)
def test_saslprep_is_that_of_postgresql(password: str, prepared: str) -> None:
    """A password is normalised as libpq does, or left alone where libpq leaves it alone."""
    assert prepared == saslprep(password)


def test_password_file_escapes_its_separators() -> None:
    """Colons and backslashes of a password are no separators of a password file."""
    expected = "10.0.0.21:5432:*:repl:p%40a's$\"@\\:/\\\\#é"
    assert expected == pgpass_line("10.0.0.21", 5432, "repl", AWKWARD)


def test_password_with_line_break_is_refused() -> None:
    """A line break is refused by name, without showing the password."""
    with pytest.raises(TierstackError) as caught:
        check_password("cluster.replication_password", "secret\nline")
    expected = (
        "cluster.replication_password: has a line break or a null byte, which a password file of"
        " PostgreSQL cannot hold; write a password without"
    )
    assert expected == str(caught.value)


def test_empty_password_is_refused() -> None:
    """An empty password would shut everybody out."""
    with pytest.raises(TierstackError) as caught:
        check_password("sites.blog.database_password", "")
    expected = (
        "sites.blog.database_password: is empty; write a password, or delete the line for a new one"
    )
    assert expected == str(caught.value)
