"""Let a web node that was held back serve again.

pyinfra inventories/prod.py tasks/undrain.py --data node=web2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyinfra import host

from roles.web import rotation
from tierstack.hosts import surveyed_cluster
from tierstack.operations.gate import gate
from tierstack.operations.hold import let_go

cluster = surveyed_cluster()
me, node = cluster.host(host.name), rotation.chosen(cluster)

if me == node:
    let_go(name=f"{node.name} is let go")
gate(
    name=f"{node.name} gets visitors",
    before="the end",
    answers=rotation.came_back(host=me, node=node),
)
