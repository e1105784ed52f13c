"""Which sites the hosts know: as their notes say, beside the inventory.

A site's name is the name of its database, its account and its MEDIA_ROOT, so one that is missing in
the inventory is either a slip or a site that leaves. Who leaves goes on serving until its successors
serve, and its data stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tierstack.model.cluster import Cluster, Site
from tierstack.model.errors import Mistake
from tierstack.model.names import owner_of_site_name
from tierstack.model.plan import listed
from tierstack.model.settings import SiteSettings

#: What of a site's settings is needed until it has left.
_KEPT = ("name", "domains", "media_url", "static_url", "hashed_static")

_Said = Mapping[str, Mapping[str, Any]]


def site_notes(cluster: Cluster, served: Collection[str]) -> list[dict[str, Any]]:
    """
    Return what hosts note of their sites.

    Args:
        cluster: the cluster, with the sites that are leaving.
        served: names of sites that have been served; to take one of the others back is no loss.
    """
    return [
        {
            **{key: getattr(site.settings, key) for key in _KEPT},
            "uid": site.uid,
            "served": site.name in served,
        }
        for site in cluster.known_sites
    ]


def served_names(said: _Said) -> set[str]:
    """Return the sites that have been served, as the hosts' notes say."""
    return {name for name, note in _notes(said).items() if note["served"]}


def leaving_sites(cluster: Cluster, said: _Said) -> tuple[Site, ...]:
    """Return the sites that hosts know and the inventory has no more."""
    names = {site.name for site in cluster.sites}
    return tuple(
        Site(
            settings=SiteSettings.model_construct(**{key: note[key] for key in _KEPT}),
            source=Path(),
            uid=note["uid"],
        )
        for name, note in sorted(_notes(said).items())
        if name not in names
    )


def judge_sites(
    cluster: Cluster, said: _Said, removed: Collection[str], *, everyone: bool
) -> list[Mistake]:
    """
    Return why the inventory's sites must not take the place of those that the hosts know.

    Args:
        cluster: the cluster.
        said: what `preflight_agent.py` said, by host name.
        removed: names that the user says are to go.
        everyone: whether every host takes part in the run.
    """
    mistakes = []
    ours = {site.name for site in cluster.sites}
    leaving = leaving_sites(cluster, said)
    unasked = [site.name for site in leaving if site.name in served_names(said) - set(removed)]
    for name in unasked:
        hosts = [host for host in said if name in _served_on(said[host])]
        what = (
            f"{name} is served, as {listed(hosts)} {'notes' if len(hosts) == 1 else 'note'}, and is not in"
            " the list any more. A name is that of database, account and MEDIA_ROOT: a site under"
            f' another one starts empty. Write name="{name}" again; or, if it is to go, add --data'
            f" removed={','.join(unasked)}: its database and its files stay where they are"
        )
        mistakes.append(Mistake("sites", what))
    for name in sorted({*removed} & ours):
        what = f"{name} is in the inventory; delete its entry in sites, or leave the word out"
        mistakes.append(Mistake(f"--data removed={name}", what))
    if leaving and not everyone:
        names = listed([site.name for site in leaving])
        what = f"{names} can only leave on all hosts at once; run it without --limit"
        mistakes.append(Mistake("sites", what))
    taken = {site.uid: site.name for site in leaving}
    free = max([*taken, *(site.uid for site in cluster.sites)]) + 1
    for index, site in enumerate(cluster.sites):
        if site.uid in taken:
            what = (
                f"{site.uid} is the number of {taken[site.uid]}'s account, whose files stay on the hosts;"
                f" write uid={free} for {site.name}, and leave it there"
            )
            mistakes.append(Mistake(f"sites[{index}].uid", what))
    # From before there were notes: nobody knows under which names and paths it is served.
    for host, facts in said.items():
        for name in facts["sites"] if "sites" not in facts["note"] else ():
            if name not in ours:
                what = f"{host} has settings of {name}, which is not in the list, and no note of it yet;"
                if owner := owner_of_site_name(name):
                    what += (
                        f" the name belongs to {owner}, and no site may have it any more: how it gets"
                        " another one by hand is in docs/moving.md"
                    )
                else:
                    what += f' write name="{name}" again, and deploy once before it goes'
                mistakes.append(Mistake("sites", what))
    return mistakes


def _notes(said: _Said) -> dict[str, Mapping[str, Any]]:
    """Return the notes of sites by name; of several, one that says that it was served."""
    found: dict[str, Mapping[str, Any]] = {}
    for facts in said.values():
        for note in facts["note"].get("sites", ()):
            if note["served"] or note["name"] not in found:
                found[note["name"]] = note
    return found


def _served_on(facts: Mapping[str, Any]) -> set[str]:
    return {note["name"] for note in facts["note"].get("sites", ()) if note["served"]}
