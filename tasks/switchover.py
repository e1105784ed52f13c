"""Have a standby become the primary, and the primary its standby; visitors wait for a few seconds.

pyinfra inventories/prod.py tasks/switchover.py --data to=db2
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyinfra import host

from roles.db import switchover
from tierstack.hosts import surveyed_cluster
from tierstack.operations.gate import gate

cluster = surveyed_cluster()
me, wanted = cluster.host(host.name), switchover.chosen(cluster)

if me.name == wanted.to:
    switchover.carry_out(cluster)
gate(name=f"{wanted.to} is the primary, and the others follow it", before="the end")
