"""Where the database is when no db host holds one: an empty one is only made where there was none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tierstack.model.cluster import Cluster
from tierstack.model.errors import Mistake
from tierstack.model.plan import listed
from tierstack.model.primary import switch_to


def judge_home(
    cluster: Cluster, answers: Mapping[str, Mapping[str, Any]], start_empty: str
) -> list[Mistake]:
    """
    Refuse db hosts without a database where there is one elsewhere, or was one.

    Args:
        cluster: the cluster.
        answers: what `preflight_agent.py` said, by host name; hosts left out are not known.
        start_empty: the db host that is to begin with an empty database, in the user's words.

    Source: design, "Data is sacred"; chapter, "Scaling": the database gets a host of its own.
    """
    db = [host.name for host in cluster.tier("db")]
    # One that was a db host before, and has no data, is judged with the other db hosts.
    known = [answers[name]["database"] for name in db if name in answers]
    if len(known) < len(db) or any(said["present"] or said["configured"] for said in known):
        return []
    if start_empty == db[0]:
        return []
    empty = f"{listed(db)} {'holds' if len(db) == 1 else 'hold'} no database"
    unknown = [host.name for host in cluster.hosts if host.name not in answers]
    if unknown:
        what = (
            f"{empty}, and whether there is one cannot be told without {listed(unknown)}, not asked in"
            " this run; deploy without --limit"
        )
        return [Mistake("db", what)]
    used = {address for said in answers.values() for address in said["database_hosts"]}
    homes = [
        host.name
        for host in cluster.hosts
        if host.name not in db
        and _is_primary(answers[host.name]["database"])
        and (host.address in used or not used)
    ]
    anew = f"to start with an empty one, add --data start_empty={db[0]}"
    if homes:
        what = (
            f"{empty}, and the sites' is on {homes[0]}; write {homes[0]} in db as well, deploy, type"
            f" {switch_to(db[0], str(cluster.inventory))}, and then take {homes[0]} out of db; or,"
            f" {anew}, and what is on {homes[0]} is used no more"
        )
        return [Mistake("db", what)]
    if not used:
        return []
    webs = [name for name, said in answers.items() if said["database_hosts"]]
    what = (
        f"{empty}, and {listed(webs)} {'has' if len(webs) == 1 else 'have'} the sites' at"
        f" {listed(sorted(used))}; put {'that host' if len(used) == 1 else 'these hosts'} back in db,"
        f" with the disk; or, {anew}, and what the sites have stored is used no more"
    )
    return [Mistake("db", what)]


def _is_primary(said: Mapping[str, Any]) -> bool:
    return bool(said["present"] and said["ours"] and not said["standby"])
