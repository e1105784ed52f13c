"""MEDIA_ROOT on a host's own disk, noted as the one that counts or as a copy of it.

Reason: without a note of which directory it was, an empty one may be an unmounted disk, and nothing
says that what replication deletes is a copy. The note is root's: in MEDIA_ROOT the site could change it.
"""

from __future__ import annotations

import datetime
from collections.abc import Generator, Sequence
from typing import Any

from pyinfra import host
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.operation import operation

from tierstack.hosts import facts
from tierstack.model import Site
from tierstack.model.plan import Effect
from tierstack.operations.remote import run

MEDIA_AGENT = "media_agent.py"


@operation()
def media_root(sites: Sequence[Site], role: str) -> Generator[PyinfraCommand, None, None]:
    """
    Have MEDIA_ROOT of each site there, and noted as what it is.

    Args:
        sites: the sites.
        role: "home"; or "copy": then what is not marked as one is moved aside, never deleted.
    """
    said = facts(host.name)["media"]
    wrong = [
        site
        for site in sites
        # Of a site that leaves, a new host knows nothing.
        if site.name in said and (said[site.name]["mark"] != role or said[site.name]["old"])
    ]
    if not wrong:
        return
    notes = [f"notes {site.media_root} as the {role}" for site in wrong]
    notes += [
        f"moves what lies in {site.media_root} aside, to {site.media_root}.aside-…"
        for site in wrong
        if role == "copy" and said[site.name]["mark"] != role and said[site.name]["files"]
    ]
    yield run(MEDIA_AGENT, mark_request(wrong, role), Effect(notes=tuple(notes)))


def mark_request(sites: Sequence[Site], role: str, *, proved: bool = False) -> dict[str, Any]:
    """
    Return what `media_agent.py` is asked to note MEDIA_ROOT of these sites.

    Args:
        sites: the sites.
        role: "home", "copy" or "leaving"; or "none", and what lies under a mount is moved aside.
        proved: whether what lies there was compared with the home's.
    """
    return {
        "role": role,
        "proved": proved,
        "sites": {site.name: site.media_root for site in sites},
        "accounts": {site.name: site.account for site in sites},
        "stamp": now(),
    }


def now() -> str:
    """Return the moment, as the names of directories that are moved aside say it, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
