"""The chapter's fifth arrangement, "going big": several servers in every tier.

Name servers send visitors to one balancer after the other; a standby may become the primary.
"""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

balancer = [
    lab_host("lb1", 10),
    lab_host("lb2", 20),
]
web = [
    lab_host("web1", 11),
    lab_host("web2", 12),
    lab_host("web3", 13),
]
db = [
    lab_host("db1", 21),
    lab_host("db2", 22),
    lab_host("db3", 23),
]
cache = [
    lab_host("cache1", 31),
    lab_host("cache2", 32),
]
media = [
    lab_host("media1", 41),
    lab_host("media2", 42),
]

cluster(__file__)
