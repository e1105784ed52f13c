"""Migrations: once, and on a named host."""

from __future__ import annotations

import pyinfra

from roles.db.survey import survey
from roles.web.release import config_path
from tierstack import hosts
from tierstack.model import Cluster, Host
from tierstack.operations.migrations import migrations
from tierstack.secrets import Secrets


def migrate(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """
    Bring the tables to what the release needs: the inventory's first web host does it.

    Where that host has no part in the run, the others refuse if there is anything to migrate.
    """
    first = cluster.tier("web")[0]
    if host.name != first.name and hosts.in_this_run(first.name):
        return
    db = cluster.settings.db
    asked = all(hosts.in_this_run(member.name) for member in cluster.tier("db"))
    for site in pyinfra.host.loop(cluster.sites):
        migrations(
            name=f"Tables of {site.name} fit the release",
            site=site.name,
            account=site.account,
            manage=f"{config_path(cluster, host, site, secrets)}/manage",
            runs_on=first.name,
            primary=survey(cluster).primary.name if asked else "",
            lock_s=db.migration_lock_s,
            tries=db.migration_tries,
            limit_s=db.migration_s,
        )
