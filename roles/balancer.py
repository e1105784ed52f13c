"""HAProxy on the balancers: the front door of the cluster.

Source: HAProxy 2.6 configuration manual; chapter, "Load balancing and redundancy".
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyinfra
from pyinfra.api.facts import FactBase

from roles import media, web
from tierstack import hosts
from tierstack.model import Cluster, Host, Site
from tierstack.model.front import ADDRESS_HEADERS, PROXY_HEADERS
from tierstack.model.sizing import (
    balancer_connections,
    lane_connections,
    node_maxconn,
    pages_of_one,
    source_connections,
)
from tierstack.operations.config import Directory, File, Unit, config, template
from tierstack.operations.haproxy import HaproxyStat, only_nodes
from tierstack.secrets import Secrets, front_certificate

#: What whoever watches a balancer asks: 200 while at least one web node takes visitors.
MONITOR_PATH = "/-/balancer-health"

#: How long a download may go on after a reload, in seconds.
_DOWNLOAD_S = 3600

#: How long a visitor waits for a worker when all are busy, in seconds.
_QUEUE_S = 20

#: How long a visitor may take to send a request's head, in seconds.
_REQUEST_S = 10

#: How long a visitor may be silent on the way, in seconds; TLS has to be agreed upon in that time.
_CLIENT_S = 15

#: How long visitors wait for the only web node while it restarts, in seconds.
_ALONE_S = 30

#: How long a balancer remembers that a file is nowhere, in seconds; and of how many files.
_MISSING_S, _MISSING_FILES = 5, 20000

#: Most media hosts beside the first one that are asked for a file.
_MEDIA_RETRIES = 2

#: How much longer than a request may take HAProxy waits for its answer, in seconds.
_GRACE_S = 5

#: Most trusted proxies that a request may have come through, one behind the other.
_HOPS = 5

_DIRECTORY = "/etc/haproxy/tierstack"

#: Pages that HAProxy answers itself: status, title, text.
_ERRORS = (
    (502, "Something went wrong", "This page could not be fetched. Please try again in a moment."),
    (503, "We will be right back", "The site is very busy at the moment, or is being looked after. Please try again in a few seconds."),
    (504, "This took too long", "The page was not ready in time. Please try again in a moment."),
)  # fmt: skip
_RETRY_AFTER_S = 5

#: How long a body that is refused is read, so that its sender reads the answer, in seconds; and how
#: many at once, as a share of all connections.
_REFUSE_S, _REFUSE_SHARE = 30, 10

#: Over how many seconds connections of an address are counted; and of how many addresses at most.
_RATE_S, _SOURCES = 10, 20000

#: What whoever takes longer is told, as HAProxy's `errorfile` has it.
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"cache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
    b"This request took too long to arrive.\n"
)


def drop_removed_nodes(cluster: Cluster, host: Host) -> None:
    """Lead visitors away from nodes that have left the inventory, until they are idle."""
    only_nodes(
        name="Balancer sends visitors to the inventory's nodes only",
        nodes={tier: [node.name for node in cluster.tier(tier)] for tier in ("web", "media")},
        patience_s=cluster.settings.web.timeout_s + _GRACE_S,
    )


def deploy(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """Serve the sites on the front ports of every address of the host."""
    settings = cluster.settings.balancer
    ipv6 = pyinfra.host.get_fact(Ipv6)
    config(
        name=f"Balancer serves the site on port {settings.https_port if settings.https else settings.http_port}",
        stamp="balancer",
        entries=[
            Directory(_DIRECTORY),
            *_certificate(cluster, secrets),
            *[
                File(
                    f"{_DIRECTORY}/{status}.html",
                    template(
                        "balancer/etc/haproxy/tierstack/error.html.j2",
                        status=status,
                        title=title,
                        text=text,
                    ),
                )
                for status, title, text in _ERRORS
            ],
            File(
                f"{_DIRECTORY}/refuse.lua",
                template(
                    "balancer/etc/haproxy/tierstack/refuse.lua.j2",
                    **_refusals(cluster),
                ),
            ),
            File(f"{_DIRECTORY}/408.http", _TOO_SLOW),
            File("/etc/haproxy/tierstack.cfg", configuration(cluster, host, ipv6=ipv6)),
            File(
                "/usr/local/lib/tierstack/haproxy-reload",
                template("balancer/usr/local/lib/tierstack/haproxy-reload.j2"),
                mode="755",
            ),
            File(
                "/etc/systemd/system/haproxy.service.d/tierstack.conf",
                template("balancer/etc/systemd/system/haproxy.service.d/tierstack.conf.j2"),
                needs="restart",
            ),
        ],
        check_staged="haproxy -c -f $STAGE/etc/haproxy/tierstack.cfg",
        units=[Unit("haproxy.service")],
    )


class Ipv6(FactBase[bool]):
    """Whether the host's kernel has IPv6: a port on `::` cannot be opened without."""

    def command(self) -> str:
        return "test -e /proc/net/if_inet6 && echo yes || echo no"

    def process(self, output: list[str]) -> bool:
        return output[-1] == "yes"


def _certificate(cluster: Cluster, secrets: Secrets) -> list[File]:
    """Return the certificate chain and its key in one file, as HAProxy wants it."""
    settings = cluster.settings.balancer
    if not settings.https:
        return []
    if settings.certificate is not None:
        content = front_certificate(cluster).pem.encode()
    else:
        parts = ("front.certificate", "cluster.ca_certificate", "front.key")
        content = "".join(secrets[part] for part in parts).encode()
    return [File(f"{_DIRECTORY}/front.pem", content, mode="600")]


def configuration(cluster: Cluster, host: Host, *, ipv6: bool) -> bytes:
    """Return HAProxy's configuration on one balancer."""
    settings = cluster.settings
    sites = [_site(site) for site in cluster.sites]
    connections = balancer_connections(cluster, host)
    refused = connections // _REFUSE_SHARE
    lane = lane_connections(cluster)
    proxies = settings.balancer.trusted_proxies
    return template(
        "balancer/etc/haproxy/tierstack.cfg.j2",
        download_s=_DOWNLOAD_S,
        connections=connections,
        # Visitors, and the ways through HAProxy itself.
        connections_in_all=connections + 2 * lane + refused,
        refuse_s=_REFUSE_S,
        refused=refused,
        lane=lane,
        pages_of_one=pages_of_one(cluster),
        uploads_of_one=max(2, lane // 2),
        source_connections=source_connections(cluster, host),
        source_new=settings.balancer.source_rate * _RATE_S,
        rate_s=_RATE_S,
        sources=_SOURCES,
        request_s=_REQUEST_S,
        client_s=_CLIENT_S,
        queue_s=_QUEUE_S,
        retry_after_s=_RETRY_AFTER_S,
        errors=[(status, title) for status, title, _ in _ERRORS],
        binds=binds(cluster, ipv6=ipv6),
        monitor_path=MONITOR_PATH,
        trusted=f"src {' '.join(proxies)}" if proxies else "always_false",
        address_headers=ADDRESS_HEADERS,
        proxy_headers=PROXY_HEADERS,
        hops=[
            {"number": n, "after": f" {{ var(txn.hop{n - 1}) -m found }}" if n > 1 else ""}
            for n in (range(1, _HOPS + 1) if proxies else ())
        ],
        sites=sites,
        https=settings.balancer.https,
        hsts_s=settings.balancer.hsts_s,
        # A visitor's address bar shows no port where it is the scheme's own.
        https_suffix=f":{settings.balancer.https_port}"
        if settings.balancer.https_port != 443
        else "",
        health_path=web.HEALTH_PATH,
        health_host=name_of(cluster.sites[0]),
        routes=sites if cluster.tier("media") else [],
        **_refusals(cluster),
        alone_s=_ALONE_S,
        server_s=settings.web.timeout_s + _GRACE_S,
        web_port=settings.web.port,
        web_nodes=[
            {"name": node.name, "address": node.address, "maxconn": node_maxconn(cluster, node)}
            for node in cluster.tier("web")
        ],
        media_health_path=media.HEALTH_PATH,
        media_port=settings.media.port,
        **_media(cluster),
    )


def _media(cluster: Cluster) -> dict[str, Any]:
    """Return who serves files, the home of MEDIA_ROOT first where others have copies of it."""
    copies = cluster.copies
    home = cluster.media_home
    others = [node for node in cluster.tier("media") if node != home or not copies]
    count = len(others) + 1
    return {
        "media_nodes": [home, *others] if copies else others,
        "media_home": home.name if copies else "",
        # Each rule is asked when those before it were not for it: all hosts get the same share.
        "media_chances": [
            {"name": node.name, "of": count - index} for index, node in enumerate(others)
        ],
        "media_retries": min(count - 1, _MEDIA_RETRIES),
        "missing_s": _MISSING_S,
        "missing_files": _MISSING_FILES,
    }


def _refusals(cluster: Cluster) -> dict[str, Any]:
    upload_mb = cluster.settings.web.upload_mb
    return {
        "length_required": "Send this request with a Content-Length.",
        "too_large": f"At most {upload_mb} MiB are accepted.",
        "upload_bytes": upload_mb * 1024 * 1024,
    }


def binds(cluster: Cluster, *, ipv6: bool) -> list[str]:
    """Return where visitors are let in: every address of the host, IPv4 and IPv6."""
    settings = cluster.settings.balancer
    doors = [(settings.http_port, "")]
    if settings.https:
        protocols = "h2,http/1.1" if settings.http2 else "http/1.1"
        doors.append((settings.https_port, f" ssl crt front.pem alpn {protocols}"))
    found = []
    for port, options in doors:
        found.append(f"0.0.0.0:{port}{options}")
        if ipv6:
            found.append(f"[::]:{port} v6only{options}")
    return found


def _site(site: Site) -> dict[str, Any]:
    domains = site.settings.domains
    return {
        "name": site.name,
        "acl": f"site_{site.name}",
        "names": [domain for domain in domains if not domain.startswith("*.")],
        # [.] rather than a backslash, which HAProxy's configuration would take for its own.
        "patterns": [
            f"^[^.]+{domain[1:].replace('.', '[.]')}$"
            for domain in domains
            if domain.startswith("*.")
        ],
        "paths": sorted({site.settings.media_url, site.settings.static_url}),
    }


def name_of(site: Site) -> str:
    """Return a host name under which a site is to be asked."""
    return site.settings.domains[0].replace("*.", "www.")


class FrontPages(FactBase[dict[str, str]]):
    """What is wrong with each site's front page, asked through this host's own front door."""

    def command(self) -> str:
        return "python3 -"

    def process(self, output: list[str]) -> dict[str, str]:
        found: dict[str, str] = json.loads(output[-1])
        return found


_ASK = """
import http.client, json, ssl
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE

def problem(name):
    try:
        if tls:
            # http.client asks for its address by TLS; HAProxy picks no certificate by name.
            door = http.client.HTTPSConnection(address, port, timeout=20, context=context)
        else:
            door = http.client.HTTPConnection(address, port, timeout=20)
        door.request("GET", "/", headers={"Host": name})
        status = door.getresponse().status
        return "" if status < 500 and status != 421 else "answers %d" % status
    except (OSError, http.client.HTTPException) as error:
        return "gets no answer: %s" % error

print(json.dumps({name: problem(name) for name in names}))
"""


def answers(cluster: Cluster, host: Host) -> Callable[[], str] | None:
    """Return a check for the gate: None where there is nothing to ask."""
    if "balancer" not in host.tiers:
        return None
    settings = cluster.settings.balancer
    asked = {
        "address": host.address,
        "port": settings.https_port if settings.https else settings.http_port,
        "tls": settings.https,
        "names": [name_of(site) for site in cluster.sites],
    }
    program = "".join(f"{key} = {value!r}\n" for key, value in asked.items()) + _ASK

    def check() -> str:
        servers = pyinfra.host.get_fact(HaproxyStat)
        if not servers:
            return "HAProxy does not run; look: journalctl -u haproxy"
        down = [server for server in servers if not server.up]
        detail = "; ".join(f"{s.name} is {s.status} ({s.check or 'not checked yet'})" for s in down)
        if not any(server.up for server in servers if server.backend == "web"):
            return f"no web node takes visitors: {detail}"
        # One without a part in this run may be down.
        late = [s for s in down if not s.held and hosts.in_this_run(s.name)]
        if late:
            return f"not every node takes visitors: {detail}"
        pages = pyinfra.host.get_fact(FrontPages, _stdin=program) or {"HAProxy": "does not answer"}
        wrong = [f"{name} {problem}" for name, problem in pages.items() if problem]
        return "; ".join([*wrong, detail] if wrong and detail else wrong)

    return check
