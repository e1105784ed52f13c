"""
Local hosts for demo and tests, with systemd and sshd: LXC containers and virtual machines.

    Lab().up({"web1": "10.77.21.11", "db1": "10.77.21.21"}, vms={"web1": 512})
    Lab().ssh("web1", "hostname")
    Lab().down()

Inventories call `lab_host` and `kernel_has_nfs`; neither needs a lab.
"""

from tierstack.lab.commands import LabError
from tierstack.lab.control import HostStatus, Lab
from tierstack.lab.machine import kernel_has_nfs
from tierstack.lab.settings import Settings, lab_host

__all__ = ["HostStatus", "Lab", "LabError", "Settings", "kernel_has_nfs", "lab_host"]
