"""The chapter's third arrangement: a media server of its own.

Uploads and static files are served by lighttpd, beside the web server.
"""

from tierstack.inventory import cluster
from tierstack.lab import lab_host

web = [
    lab_host("web1", 11),
]
db = [
    lab_host("db1", 21),
]
media = [
    lab_host("media1", 41),
]

cluster(__file__)
