"""Eight hosts on this machine: `tierstack lab up inventories/lab.py`, then deploy to them.

A web node more is a line more: lab_host("web4", 14).
"""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

balancer = [
    lab_host("lb1", 10),
]
web = [
    lab_host("web1", 11),
    lab_host("web2", 12),
    lab_host("web3", 13),
]
db = [
    lab_host("db1", 21),
    lab_host("db2", 22),
]
cache = [
    lab_host("cache1", 31),
]
media = [
    lab_host("media1", 41),
]

cluster(__file__)
