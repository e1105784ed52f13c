"""The whole cluster, tier by tier: `pyinfra inventories/prod.py deploy.py`.

pyinfra runs this file once for each host, then executes the operations of all hosts together.
An operation is known by its line here and below, so every role has a plain line of its own; the
gates hold all hosts together, so that a tier is up before the next one uses it.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pyinfra import host

from roles import balancer, base, cache, copies, db, leaving, media, share, web
from tierstack.hosts import surveyed_cluster, whole_run
from tierstack.operations.gate import gate
from tierstack.secrets import load_secrets

cluster = surveyed_cluster(base.needed_packages, with_secrets=True)
secrets = load_secrets(cluster)
me = cluster.host(host.name)
# With --limit, nothing is closed or changed that a host which is not here may still need.
everyone = whole_run(cluster)

# First of all: visitors are led away from web nodes that have left the inventory, while these
# nodes can still reach their database.
if "balancer" in me.tiers:
    balancer.drop_removed_nodes(cluster, me)
gate(name="Balancers have dropped removed nodes", before="the hosts' base")

base.deploy(cluster, me, secrets)
gate(name="Every host has its base", before="the db tier")

if "db" in me.tiers:
    db.deploy(cluster, me, secrets)
gate(name="The db tier answers", before="the cache tier", answers=db.answers(cluster, me))

if "cache" in me.tiers:
    cache.deploy(cluster, me)
gate(name="The cache tier answers", before="the share", answers=cache.answers(cluster, me))

# What a host has mounted that mounts nothing any more, before it gets files of its own there; it has
# no visitors, if balancers could be told.
if everyone:
    share.leave(cluster, me)
copies.mark_home(cluster, me)
if me == cluster.exporter:
    share.export(cluster, me, secrets, everyone=everyone)
gate(name="MEDIA_ROOT is exported", before="the media tier", answers=share.answers(cluster, me))

if "media" in me.tiers:
    media.deploy(cluster, me, secrets)
gate(name="The media tier answers", before="the web tier", answers=media.answers(cluster, me))

# Code is laid out everywhere, then static files reach the media tier, before a web node serves it.
if "web" in me.tiers:
    web.prepare(cluster, me, secrets)
gate(name="Every web node has the release", before="static files")
if {"web", "media"} & set(me.tiers):
    media.static_files(cluster, me)
gate(name="Static files of the release are served", before="new media hosts serve")

# Where media hosts are new, files come from them before web hosts stop serving them.
if "balancer" in me.tiers and media.is_new(cluster):
    balancer.deploy(cluster, me, secrets)
gate(name="New media hosts serve", before="the sites' passwords")

# Only now: a password that has changed shuts out what serves, until it serves the release.
if everyone and "db" in me.tiers:
    db.passwords(cluster, me, secrets)
gate(name="Sites can log in to their databases", before="migrations")
if "web" in me.tiers:
    web.migrate(cluster, me, secrets)
gate(name="Tables fit the release", before="serving it")
if "web" in me.tiers:
    web.deploy(cluster, me, secrets)
gate(name="The web tier answers", before="the balancers", answers=web.answers(cluster, me))

if "balancer" in me.tiers:
    balancer.deploy(cluster, me, secrets)
gate(name="The front door answers", before="the end", answers=balancer.answers(cluster, me))

# Sites that have left the inventory served until here: their data stays.
if cluster.leaving:
    leaving.unmount(cluster, me)
    gate(name="Nobody uses the files of sites that left", before="their end")
    leaving.drop(cluster, me, secrets)
    gate(name=leaving.what_stays(cluster), before="the end")
base.note_served(cluster, me, secrets)

# Now that nobody needs them any more: ports that are no longer named, access of removed hosts to
# the databases, slots of removed standbys, programs of tiers that a host has left.
if everyone:
    base.close(cluster, me)
    share.close(cluster, me)
    copies.close(cluster, me)
if everyone and "db" in me.tiers:
    db.drop_removed(cluster, me, secrets)
if everyone:
    db.retire(me)
