"""
Local hosts for demo and tests: LXC system containers with systemd and sshd.

    Lab().up({"web1": "10.77.21.11"})
    Lab().ssh("web1", "hostname")
    Lab().down()

Inventories call `lab_host` and `kernel_has_nfs`; neither needs LXC.
"""

from tierstack.lab.commands import LabError
from tierstack.lab.control import HostStatus, Lab
from tierstack.lab.machine import kernel_has_nfs
from tierstack.lab.settings import Settings, lab_host

__all__ = ["HostStatus", "Lab", "LabError", "Settings", "kernel_has_nfs", "lab_host"]
