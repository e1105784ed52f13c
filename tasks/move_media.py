"""Move MEDIA_ROOT to another host while the site serves, with no file lost.

pyinfra inventories/prod.py tasks/move_media.py --data to=media2

Everything is copied first. Then visitors' requests wait for some seconds, the rest is copied and
compared, and the web hosts mount MEDIA_ROOT from its new host. The files of before stay where they
were, as a copy or aside. A run that was cut off is finished by the same command.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pyinfra import host

from roles import balancer, base, media, move_media, share
from tierstack.operations.gate import gate
from tierstack.operations.move_media import mounts_moved, moved
from tierstack.secrets import load_secrets

cluster = move_media.cluster_afterwards()
secrets = load_secrets(cluster)
me, source = cluster.host(host.name), move_media.source(cluster)
target = cluster.media_home
swapped = move_media.serves_already(cluster)

base.deploy(cluster, me, secrets)
gate(name="Every host has its base", before="the copy")
move_media.prepare(cluster, me, secrets)
gate(name=f"{target.name} takes MEDIA_ROOT", before="the copy", answers=share.answers(cluster, me))
if me == target and source != target:
    moved(
        name=f"MEDIA_ROOT lies on {target.name}",
        cluster=cluster,
        way=move_media.way(cluster, secrets),
    )
if me == target and source == target:
    mounts_moved(
        name=f"MEDIA_ROOT is mounted from {target.name}",
        cluster=cluster,
        way=move_media.way(cluster, secrets),
        names=move_media.late(cluster),
    )
gate(name=f"{target.name} has MEDIA_ROOT", before="its copies")
if swapped and "media" in me.tiers:
    media.deploy(cluster, me, secrets)
gate(
    name="Copies are kept",
    before="the balancers",
    answers=media.answers(cluster, me) if swapped else None,
)
if swapped and "balancer" in me.tiers:
    balancer.deploy(cluster, me, secrets)
gate(name="The front door answers", before="the end", answers=balancer.answers(cluster, me))
