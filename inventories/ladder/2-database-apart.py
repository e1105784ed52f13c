"""The chapter's second arrangement: a database server of its own.

The database no longer shares memory and disk with the web server.
"""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

web = [
    lab_host("web1", 11),
]
db = [
    lab_host("db1", 21),
]

cluster(__file__)
