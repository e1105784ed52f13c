"""Which cluster a host is of: the note on it, and whether a secrets file is that cluster's own.

A living cluster keeps its secrets: a file that is missing, cut short or another cluster's is refused
before anything is made anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tierstack.model.cluster import Cluster
from tierstack.model.errors import Mistake
from tierstack.model.plan import listed

#: Where a host keeps its note, for root only: `{"id": …, "secrets": […], …}`.
NOTE = "/var/lib/tierstack/cluster.json"

#: The cluster's name for itself in its secrets file. No secret, but made and kept as one.
ID = "cluster.id"

#: The word for those who mean it.
ANEW = "--data new_secrets=yes"

#: What each tier's stamp says that a host was given, before hosts had notes.
_GIVEN_WITH = {
    "db": ("cluster.ca_key", "cluster.replication_password"),
    "share-export": ("share.client_key",),
}
_GIVEN_TO_SITES = ("database_password", "secret_key")

_Said = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SecretsAtHand:
    """
    What a secrets file has, before a run makes what is missing; names only.

    Args:
        file: its name.
        id: the cluster that it is of; "" if it does not say.
        names: the secrets that it has.
        wanted: those that this cluster needs.
        authority: fingerprint of its CA's key; "" if it has none.
    """

    file: str
    id: str
    names: frozenset[str]
    wanted: frozenset[str]
    authority: str = ""


def irreplaceable(names: Iterable[str]) -> list[str]:
    """
    Return the secrets that would be others if they were made anew, sorted.

    A certificate is signed again by the same authority, and so is a host's for a new key: whoever
    trusts the authority notices nothing.
    """
    return sorted(
        name
        for name in names
        if name != ID and not name.endswith(".certificate") and not name.startswith("hosts.")
        if name != "cluster.ca_certificate"
    )


def authority(pem: str) -> str:
    """Return the fingerprint of the key that an authority signs with; "" if this is no certificate."""
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except ValueError:
        return ""
    public = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(public).hexdigest()[:32]


def judge_secrets(cluster: Cluster, at_hand: SecretsAtHand, said: _Said) -> list[Mistake]:
    """
    Return why these secrets must not be given to the hosts that were asked.

    Args:
        cluster: the cluster.
        at_hand: what the secrets file has.
        said: what `preflight_agent.py` said, by host name.
    """
    deployed = [name for name in said if said[name]["note"] or said[name]["stamps"]]
    if not at_hand.names and deployed:
        what = (
            f"there is no such file, and {listed(deployed)} {_been(deployed)} deployed with its secrets;"
            " put it beside the inventory (a copy, or under its old name); or, if it is lost for good,"
            f" add {ANEW}: all are made anew, everybody is logged out, and requests may fail meanwhile"
        )
        return [Mistake(at_hand.file, what)]
    strangers = [name for name in deployed if _is_of_another(at_hand, said[name])]
    if strangers:
        what = (
            f"is of another cluster than the one with whose secrets {listed(strangers)} {_been(strangers)}"
            " deployed; correct the hosts' addresses, or put that cluster's own file here; or, to have"
            f" them join this one with this file's secrets, add {ANEW}"
        )
        return [Mistake(at_hand.file, what)]
    missing = [name for name in irreplaceable(at_hand.wanted) if name not in at_hand.names]
    given = {secret for name in deployed for secret in _given(cluster, said[name])}
    # Which variables a site wants stands nowhere else than in the file.
    variables = tuple(f"sites.{site.name}.environment." for site in cluster.sites)
    lost = sorted(
        secret
        for secret in given - at_hand.names
        if secret in missing or secret.startswith(variables)
    )
    if lost:
        what = (
            f"{listed(lost)} {_are(lost)} missing, and {listed(deployed)} {_been(deployed)} deployed"
            f" with {'it' if len(lost) == 1 else 'them'}; put {'it' if len(lost) == 1 else 'them'} back"
            f" from a copy of the file, or, to have {'a new one' if len(lost) == 1 else 'new ones'}"
            f" (of a variable: none), add {ANEW}"
        )
        return [Mistake(at_hand.file, what)]
    others = [host.name for host in cluster.hosts if host.name not in said]
    if missing and others and not deployed:
        what = (
            f"{listed(missing)} {_are(missing)} missing, and whether the cluster has"
            f" {'it' if len(missing) == 1 else 'them'} already cannot be told without {listed(others)},"
            " not asked in this run; put the cluster's file beside the inventory, or run it without"
            f" --limit; or, where nothing was deployed yet, add {ANEW}"
        )
        return [Mistake(at_hand.file, what)]
    return []


def _is_of_another(at_hand: SecretsAtHand, said: Mapping[str, Any]) -> bool:
    note = said["note"]
    if note and note["id"] == at_hand.id:
        return False
    # Deployed before there were notes, or a copy of the file from before: the authority tells.
    theirs = note.get("authority") or authority(said["ca"])
    if theirs and at_hand.authority:
        return bool(theirs != at_hand.authority)
    return bool(note and at_hand.id)


def _given(cluster: Cluster, said: Mapping[str, Any]) -> set[str]:
    """Return the secrets that a host was deployed with, by its note or by what lies on it."""
    if said["note"]:
        return set(said["note"]["secrets"])
    found = {secret for stamp in said["stamps"] for secret in _GIVEN_WITH.get(stamp, ())}
    return found | {f"sites.{site}.{name}" for site in said["sites"] for name in _GIVEN_TO_SITES}


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _been(names: list[str]) -> str:
    return "was" if len(names) == 1 else "were"
