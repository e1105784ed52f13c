"""A cluster whose web and media hosts have kernels of their own, with NFS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.needs import lab_directory, need_root
from tests.operator import Operator

#: A lab of its own: that of the stories may still be up.
LAB = {
    "TIERSTACK_LAB_DIR": lab_directory("test-vm-lab"),
    "TIERSTACK_LAB_SUBNET": "10.77.23.0/24",
}

_LAB_PY = """
from tierstack.inventory import cluster
from tierstack.lab import lab_host

balancer = [lab_host("lb1", 10)]
web = [lab_host("web1", 11), lab_host("web2", 12)]
db = [lab_host("db1", 21)]
cache = [lab_host("cache1", 31)]
media = [lab_host("media1", 41)]

cluster(__file__)
"""

STORAGE = 'storage = [lab_host("storage1", 51)]\n'


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Somebody whose hosts had accounts of their own before the cluster was deployed to them."""
    need_root()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LAB.items():
            patch.setenv(name, value)
        somebody = Operator(tmp_path_factory.mktemp("ops"))
        (somebody.home / "group_data" / "lab.py").write_text('media = dict(share="nfs")\n')
        somebody.tierstack("lab", "down")
        try:
            # storage1 is made with the others, and first only looks on.
            somebody.inventory.write_text(_LAB_PY.replace("media = ", STORAGE + "media = "))
            machines = ("web1", "web2", "media1", "storage1")
            vms = [word for name in machines for word in ("--vm", name)]
            somebody.lab("up", str(somebody.inventory), *vms)
            for host in ("web2", "media1"):
                somebody.ask(host, "useradd -r dummy && useradd -r another")
            somebody.inventory.write_text(_LAB_PY)
            somebody.deploy_well()
            yield somebody
        finally:
            somebody.tierstack("lab", "down")
