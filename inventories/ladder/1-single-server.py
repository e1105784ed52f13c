"""The chapter's first arrangement: a single server.

One host is the front door, runs the site and its database, and serves its files.
"""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

web = [
    lab_host("web1", 11),
]
db = [
    lab_host("web1", 11),
]

cluster(__file__)
