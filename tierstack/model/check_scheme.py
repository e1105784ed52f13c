"""Whether what sites and settings say of https fits what the balancers serve."""

from __future__ import annotations

import ast

from tierstack.model.cluster import Cluster, Site
from tierstack.model.errors import Mistake
from tierstack.model.settings_text import last_assignments

#: Django's settings that presume https, and what becomes of a site that has them without.
NEEDS_HTTPS = {
    "SECURE_SSL_REDIRECT": "every page leads to a port that nobody serves",
    "SESSION_COOKIE_SECURE": "no log-in lasts",
    "CSRF_COOKIE_SECURE": "no form is taken",
}

#: What to do about it.
ADVICE = (
    "write https=True in balancer, or the proxy in front that ends TLS as trusted_proxies, or False"
    " there"
)


def serves_https(cluster: Cluster) -> bool:
    """Return whether visitors may come by https: to the balancers, or to a proxy before them."""
    balancer = cluster.settings.balancer
    return balancer.https or bool(balancer.trusted_proxies)


def check_scheme(cluster: Cluster) -> list[Mistake]:
    """Return what presumes https, or a certificate that browsers know, and does not have it."""
    balancer = cluster.settings.balancer
    mistakes = []
    if balancer.hsts_s and not balancer.https:
        what = f"browsers take it by https only ({balancer.hsts_s}, with https=False); write 0"
        mistakes.append(Mistake("balancer.hsts_s", what))
    elif balancer.hsts_s and balancer.certificate is None:
        what = (
            f"browsers that were told so let nobody past a self-signed certificate"
            f" ({balancer.hsts_s}); write where yours is as balancer.certificate, or 0"
        )
        mistakes.append(Mistake("balancer.hsts_s", what))
    if not serves_https(cluster):
        for index, site in enumerate(cluster.sites):
            mistakes += _presuming(site, f"sites[{index}].settings")
    return mistakes


def _presuming(site: Site, key: str) -> list[Mistake]:
    roots = [site.source / site.settings.project, site.source]
    assigned = last_assignments(site.source, roots, site.settings.settings)
    found = []
    for name, outcome in NEEDS_HTTPS.items():
        if name == "SECURE_SSL_REDIRECT" and "SECURE_SSL_HOST" in assigned:
            continue
        said = assigned.get(name)
        if said and isinstance(said.value, ast.Constant) and said.value.value:
            what = f"{said.where}: {name} is {said.value.value!r}, and balancer.https is False, so"
            found.append(Mistake(key, f"{what} {outcome}; {ADVICE}"))
    return found
