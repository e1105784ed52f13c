"""Passwords in the forms that PostgreSQL wants them: SCRAM verifiers and password files."""

from __future__ import annotations

import base64
import hashlib
import hmac
import stringprep
import unicodedata

from tierstack.model.errors import TierstackError

#: PostgreSQL's own count. Source: PostgreSQL 15, src/include/common/scram-common.h.
ITERATIONS = 4096


def check_password(name: str, password: str) -> None:
    """
    Refuse what no password file can hold.

    Args:
        name: the secret's name, for the message.
        password: its value, which the message does not show.

    Raises:
        TierstackError: it is empty, or has a line break or a null byte.
    """
    if not password:
        raise TierstackError(
            f"{name}: is empty; write a password, or delete the line for a new one"
        )
    if any(character in password for character in "\r\n\0"):
        raise TierstackError(
            f"{name}: has a line break or a null byte, which a password file of PostgreSQL cannot"
            " hold; write a password without"
        )


def scram_verifier(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """
    Return what PostgreSQL stores for a password, so that the server never sees the password.

    Args:
        password: any text.
        salt: random bytes. Not derived from the password: the server tells the salt to whoever
            begins to log in, who could then try passwords at one hash each.
        iterations: rounds of PBKDF2.

    Source: RFC 5802, section 3; PostgreSQL 15, src/common/scram-common.c.
    """
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    return f"SCRAM-SHA-256${iterations}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def same_password(password: str, salt: str, iterations: int, digest: str) -> bool:
    """
    Return whether a stored verifier was made from this password.

    Args:
        password: the password that should be in force.
        salt: the verifier's salt, base64; "" if the role has no SCRAM password.
        iterations: the verifier's count.
        digest: SHA-256 of the whole verifier, hexadecimal.
    """
    if not salt or not iterations:
        return False
    verifier = scram_verifier(password, base64.b64decode(salt), iterations)
    return hmac.compare_digest(hashlib.sha256(verifier.encode()).hexdigest(), digest)


def pgpass_line(host: str, port: int, user: str, password: str) -> str:
    """
    Return a line of a password file that fits any database.

    Source: PostgreSQL 15 manual, 34.16: `:` and `\\` are escaped.
    """
    return f"{host}:{port}:*:{user}:" + password.replace("\\", "\\\\").replace(":", "\\:")


def saslprep(password: str) -> str:
    """
    Normalise a password as PostgreSQL and libpq do before they hash it.

    Returns:
        The normal form; the password itself if it is ASCII or has characters that no normal form
        may have.

    Source: RFC 4013; PostgreSQL 15, src/common/saslprep.c.
    """
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character
        for character in password
        if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.normalize("NFKC", mapped)
    if not prepared or any(_prohibited(character) for character in mapped) or _mixed(mapped):
        return password
    return prepared


def _prohibited(character: str) -> bool:
    return (
        stringprep.in_table_a1(character)
        or stringprep.in_table_c12(character)
        or stringprep.in_table_c21_c22(character)
        or stringprep.in_table_c3(character)
        or stringprep.in_table_c4(character)
        or stringprep.in_table_c5(character)
        or stringprep.in_table_c6(character)
        or stringprep.in_table_c7(character)
        or stringprep.in_table_c8(character)
        or stringprep.in_table_c9(character)
    )


def _mixed(text: str) -> bool:
    """Return whether text that is written from right to left breaks RFC 3454's rules on it."""
    if not any(stringprep.in_table_d1(character) for character in text):
        return False
    return (
        any(stringprep.in_table_d2(character) for character in text)
        or not stringprep.in_table_d1(text[0])
        or not stringprep.in_table_d1(text[-1])
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
