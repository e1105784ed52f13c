"""The chapter's fourth arrangement: a load balancer before several web servers.

A web server more is a line more, and one that dies is not noticed.
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
]
media = [
    lab_host("media1", 41),
]

cluster(__file__)
