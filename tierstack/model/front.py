"""The way in: what name servers are to say, and which headers say who a visitor is."""

from __future__ import annotations

import ipaddress

from tierstack.model.cluster import Cluster
from tierstack.model.plan import listed

#: Headers by which some proxies name a visitor, and which ours do not write: taken from nobody.
ADDRESS_HEADERS = ("forwarded", "x-real-ip", "client-ip", "x-client-ip", "x-cluster-client-ip")

#: Those that only trusted proxies may send, as regular expressions: the ones that balancers read and
#: write, and what the big networks have of their own.
PROXY_HEADERS = (
    "x-forwarded-.*",
    "cf-connecting-ip(v6)?",
    "true-client-ip",
    "fastly-client-ip",
)


def dns_advice(cluster: Cluster) -> list[str]:
    """
    Return the records that the sites' domains need, in sentences.

    Source: chapter, "Going big": "distribute amount them using round-robin DNS".
    """
    addresses = [host.address for host in cluster.tier("balancer")]
    said = []
    for site in cluster.sites:
        names = listed(site.settings.domains)
        records = f"an A record for {addresses[0]}"
        if addresses[1:]:
            records = f"an A record for each of {listed(addresses)}, which share visitors (round-robin DNS)"
        said.append(f"DNS: {names}: {records}.")
    inner = [address for address in addresses if not ipaddress.ip_address(address).is_global]
    if inner:
        those = f"{listed(inner)} {'are' if inner[1:] else 'is'} not public"
        instead = (
            "the public address that leads to each"
            if inner[1:]
            else "the public address that leads there"
        )
        said.append(f"{those}: for visitors from outside, write {instead} instead.")
    return said


def https_advice(cluster: Cluster) -> list[str]:
    """Return what of a site's safety in transit is left to its owner, in sentences."""
    balancer, said = cluster.settings.balancer, []
    if balancer.https and balancer.certificate and not balancer.hsts_s:
        said.append(
            "HSTS: browsers still ask by http first; once https works for good, write hsts_s=3600 in"
            " balancer, and more later."
        )
    name = cluster.sites[0].name
    said.append(
        f"What Django would have you decide: tierstack-manage {name} check --deploy, on a web host."
    )
    return said
