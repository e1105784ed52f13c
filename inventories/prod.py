"""Your cluster: write your hosts in place of these, then, in the checkout of Tierstack,

    tierstack check inventories/prod.py
    pyinfra inventories/prod.py deploy.py

A host is a line: a name, and the address that the other hosts reach it at. Write addresses, not
DNS names: the site must not go down with a name server. What the sites are, and every setting,
stands in group_data/ (docs/settings.md of Tierstack). A web node more is a line more under `web`.
"""

from tierstack.inventory import cluster

# SSH goes to that address too, unless your SSH configuration knows the name. Where it differs, any
# of pyinfra's ssh_* keys may stand here, and "_sudo": True for a user who is not root:
#
#     ("web1", {"address": "10.0.0.11", "ssh_hostname": "203.0.113.11", "ssh_user": "ops", "_sudo": True})

# Visitors come in here; the site's DNS names point to these hosts.
balancer = [
    ("lb1", {"address": "192.0.2.10"}),
]

# Apache and mod_python. The first one also runs the site's migrations.
web = [
    ("web1", {"address": "192.0.2.11"}),
    ("web2", {"address": "192.0.2.12"}),
]

# PostgreSQL. On an empty cluster the first becomes the primary; later, who is primary is read from
# the hosts. The others are standbys.
db = [
    ("db1", {"address": "192.0.2.21"}),
    ("db2", {"address": "192.0.2.22"}),
]

# memcached.
cache = [
    ("cache1", {"address": "192.0.2.31"}),
]

# lighttpd: uploads and static files. Web hosts mount MEDIA_ROOT from here, over NFS.
media = [
    ("media1", {"address": "192.0.2.41"}),
]

# An NFS server of its own for MEDIA_ROOT, where one media host's disk is not enough; web hosts
# write there, and the media host serves from there:
#
#     storage = [
#         ("storage1", {"address": "192.0.2.51"}),
#     ]

# Checks everything above and in group_data/ before a host is touched.
cluster(__file__)
