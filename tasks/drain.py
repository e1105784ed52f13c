"""Take a web node out of rotation, until undrain; it stays out over reboots and deploys.

pyinfra inventories/prod.py tasks/drain.py --data node=web2 --data why="new disk"
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyinfra import host

from roles.web import rotation
from tierstack.hosts import surveyed_cluster
from tierstack.operations.gate import gate
from tierstack.operations.hold import held

cluster = surveyed_cluster()
me, node = cluster.host(host.name), rotation.chosen(cluster)
rotation.refuse_the_last(cluster, node)

if me == node:
    held(name=f"{node.name} is held back", note=rotation.note())
gate(
    name=f"{node.name} gets no visitors, and its last request has ended",
    before="work on it",
    answers=rotation.left(host=me, node=node),
    deadline_s=cluster.settings.web.timeout_s + 10,
)
