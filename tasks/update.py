"""Bring the Debian packages of all hosts up to date, one host after the other.

pyinfra inventories/prod.py tasks/update.py

Web nodes leave the rotation first, balancers keep their connections. PostgreSQL restarts where it
or a library of its own is newer: standbys first, the primary last, which takes no writes for the
seconds of its restart.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyinfra import host

from roles import update
from tierstack.hosts import surveyed_cluster
from tierstack.operations.gate import gate
from tierstack.operations.update import downloaded, updated

cluster = surveyed_cluster()
me = cluster.host(host.name)
units, answers = update.units(me), update.answers(cluster, me)

downloaded(name="Newer packages are downloaded")
gate(name="Every host has them", before="the updates")
if not update.is_primary(cluster, me):
    updated(name="Packages are up to date", units=units, answers=answers, _serial=True)
gate(name="All but the primary are up to date", before="the primary")
if update.is_primary(cluster, me):
    updated(name="The primary's packages are up to date", units=units, answers=answers)
