"""Four machines made by Vagrant: `vagrant up`, then `pyinfra inventories/vagrant.py deploy.py`.

A web node more is a line more: vagrant_host("web3", "192.168.56.13"). See docs/vagrant.md.
"""

from tierstack.inventory import cluster
from tierstack.vagrant import vagrant_host

# VirtualBox accepts no other private networks than 192.168.56.0/21, unless it is told to.
balancer = [
    vagrant_host("lb1", "192.168.56.10"),
]
web = [
    vagrant_host("web1", "192.168.56.11"),
    vagrant_host("web2", "192.168.56.12"),
]

# One machine for three tiers, to spare the memory of a laptop; each may have lines of its own.
db = [
    vagrant_host("data1", "192.168.56.21", memory_mb=768),
]
cache = ["data1"]
media = ["data1"]

cluster(__file__)
