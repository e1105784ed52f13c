"""HAProxy's configuration follows from the inventory; what its table says is read rightly."""

from __future__ import annotations

import pytest

from roles.balancer import binds, configuration, name_of
from tests.model.conftest import HOSTS, SITES, Home
from tierstack.model.front import https_advice
from tierstack.model.sizing import balancer_connections
from tierstack.operations.haproxy import HaproxyStat, Server, judge

_STAT = """\
# pxname,svname,scur,status,lastchg,check_status,check_code,last_chk,addr,
front,FRONTEND,3,OPEN,,,,,,
uploads,workers,1,UP,17,,,,unix,
web,web1,2,UP,17,L7OK,200,,10.0.0.11:8080,
web,web2,0,DOWN,4,* L4CON,,Connection refused,10.0.0.12:8080,
web,BACKEND,2,UP,17,,,,,
"""


def _lines(home: Home) -> list[str]:
    cluster = home.load()
    text = configuration(cluster, cluster.host("lb1"), ipv6=True).decode()
    return [line.strip() for line in text.splitlines()]


def _section(home: Home, name: str) -> list[str]:
    """Return the lines of one section."""
    lines = _lines(home)
    start = lines.index(name)
    heads = ("global", "defaults", "frontend ", "backend ")
    ends = [n for n, line in enumerate(lines) if n > start and line.startswith(heads)]
    return lines[start : ends[0] if ends else len(lines)]


def test_no_backend_is_named_that_is_not_there(home: Home) -> None:
    """HAProxy refuses such a configuration; without media hosts nobody leads to them."""
    one_web_host = HOSTS.replace('("web2", {"address": "10.0.0.12", "memory_mb": 1024}),', "")
    without_media = one_web_host.partition("media = ")[0]
    for hosts, expected in ((HOSTS, True), (without_media, False)):
        home.inventory(hosts)
        lines = _lines(home)
        there = {line.split()[1] for line in lines if line.startswith("backend ")}
        named = {line.split()[1] for line in lines if line.startswith("use_backend ")}
        assert named <= there
        assert ("media" in named) is expected


def test_every_web_host_is_a_server(home: Home) -> None:
    """Each web host has a line with its address and fewer requests than it has workers."""
    servers = [line for line in _section(home, "backend web") if line.startswith("server ")]
    assert servers == [
        "server web1 10.0.0.11:8080 maxconn 9",
        "server web2 10.0.0.12:8080 maxconn 9",
    ]


def test_uploads_leave_workers_to_pages(home: Home) -> None:
    """Large bodies that still arrive get a third of what all web hosts take at once, and never none."""
    server = "server workers abns@tierstack-uploads send-proxy-v2 maxconn {}"
    assert server.format(6) in _section(home, "backend uploads")
    home.group("web", "workers = 2")
    assert server.format(1) in _section(home, "backend uploads")


def test_files_go_to_the_media_hosts(home: Home) -> None:
    """Paths of media and static files are the media tier's, for the site's own names."""
    rule = "http-request set-var(txn.file) bool(true) if site_blog { path_beg /media/ /static/ }"
    assert rule in _lines(home)
    assert "use_backend media if file" in _lines(home)
    assert "server media1 10.0.0.41:8081" in _section(home, "backend media")


def test_every_backend_that_is_used_is_there(home: Home) -> None:
    """Also where web hosts serve the files: HAProxy refuses a configuration that names another."""
    one_web = HOSTS.replace('("web2", {"address": "10.0.0.12", "memory_mb": 1024}),', "")
    for hosts in (HOSTS, one_web.replace("    media = [", "    _media = [")):
        home.inventory(hosts)
        lines = _lines(home)
        used = {line.split()[1] for line in lines if line.startswith("use_backend ")}
        assert used <= {line.split()[1] for line in lines if line.startswith("backend ")}
        assert ("media" in used) == (hosts is HOSTS)


def test_home_of_uploads_is_asked_for_what_others_lack(home: Home) -> None:
    """Each media host gets its share; a 404 goes to the home, and one of a moment ago to it alone."""
    media = '[("media1", {"address": "10.0.0.41", "memory_mb": 512})'
    more = (
        f'{media}, ("media2", {{"address": "10.0.0.42"}}), ("media3", {{"address": "10.0.0.43"}})'
    )
    home.inventory(HOSTS.replace(media, more))
    cluster = home.load().with_media_home("media2")
    text = configuration(cluster, cluster.host("lb1"), ipv6=True).decode()
    lines = [line.strip() for line in text.splitlines()]
    chosen = [line for line in lines if line.startswith(("use-server", "server media"))]
    assert chosen == [
        "use-server media2 if missing",
        "use-server media1 if { rand(3) eq 0 }",
        "use-server media3 if { rand(2) eq 0 }",
        "server media2 10.0.0.42:8081",
        "server media1 10.0.0.41:8081",
        "server media3 10.0.0.43:8081",
    ]
    assert "http-request disable-l7-retry if missing" in lines
    assert "stick-table type integer size 20000 expire 5s" in lines


def test_lone_node_is_not_given_up_at_once(home: Home) -> None:
    """Where another node could take over, a refused connection counts; where none could, it waits."""
    observe = "default-server observe layer4 error-limit 2 on-error mark-down"
    assert observe in _section(home, "backend web")
    assert observe not in _section(home, "backend media")


def test_names_with_a_star_are_patterns(home: Home) -> None:
    """`*.example.com` stands for one label, as on the web and media hosts."""
    home.group("all", SITES.replace('["www.example.com"]', '["*.example.com", "example.com"]'))
    lines = _lines(home)
    assert "acl site_blog var(txn.host) -m str example.com" in lines
    assert "acl site_blog var(txn.host) -m reg ^[^.]+[.]example[.]com$" in lines
    assert name_of(home.load().sites[0]) == "www.example.com"


def test_nobody_is_trusted_unless_named(home: Home) -> None:
    """What a visitor says of themselves is deleted; a named proxy is believed."""
    rule = (
        "http-request del-header"
        " ^(x-forwarded-.*|cf-connecting-ip(v6)?|true-client-ip|fastly-client-ip)$ -m reg"
        " unless trusted_proxy"
    )
    assert rule in _lines(home)
    assert "acl trusted_proxy always_false" in _lines(home)
    assert not any("set-src" in line for line in _lines(home))
    home.group("balancer", 'trusted_proxies = ["192.0.2.7", "2001:db8::/32"]')
    lines = _lines(home)
    assert "acl trusted_proxy src 192.0.2.7 2001:db8::/32" in lines
    assert rule in lines


def test_chain_of_proxies_is_walked_from_its_end(home: Home) -> None:
    """Each address counts if the one after it is a trusted proxy's, and was an address at all."""
    home.group("balancer", 'trusted_proxies = ["192.0.2.7"]')
    hops = [line for line in _lines(home) if "txn.hop" in line]
    assert hops[:4] == [
        "http-request set-var(txn.hop1) req.hdr_ip(x-forwarded-for,-1) if trusted_proxy",
        "http-request set-src var(txn.hop1) if { var(txn.hop1) -m found }",
        "http-request set-var(txn.hop2) req.hdr_ip(x-forwarded-for,-2) if trusted_proxy"
        " { var(txn.hop1) -m found }",
        "http-request set-src var(txn.hop2) if { var(txn.hop2) -m found }",
    ]
    assert len(hops) == 10


def test_body_that_is_refused_has_a_deadline(home: Home) -> None:
    """However little of it comes, and however often; visitors have their connections beside it."""
    lines = _section(home, "backend refused")
    assert "option independent-streams" in lines
    assert "timeout server 30s" in lines
    assert "server reader abns@tierstack-refused maxconn 400" in lines
    assert "use_backend refused if too_large or chunked or unknown_length !says_length" in _lines(
        home
    )
    assert "maxconn 4000" in _section(home, "frontend front")
    assert "maxconn 4412" in _section(home, "global")


@pytest.mark.parametrize(
    ("settings", "connections", "rate"),
    [
        ("", 400, 1000),
        ("max_connections = 100", 50, 1000),
        ("max_connections = 500", 100, 1000),
        ("source_connections = 30\nsource_rate = 20", 30, 200),
    ],
)
def test_one_address_gets_a_share(home: Home, settings: str, connections: int, rate: int) -> None:
    """Connections at once and in ten seconds, and requests under way; those of a /64 are one's."""
    home.group("balancer", settings)
    lines = _lines(home)
    first = lines.index("tcp-request connection accept if trusted_proxy")
    assert lines[first + 1 : first + 4] == [
        "tcp-request connection track-sc0 src,ipmask(32,64) table sources",
        f"tcp-request connection reject if {{ sc0_conn_cur gt {connections} }}",
        f"tcp-request connection reject if {{ sc0_conn_rate gt {rate} }}",
    ]
    assert any(f"if {{ sc1_conn_cur gt {connections} }}" in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "ipv6", "expected"),
    [
        (
            "",
            True,
            [
                "0.0.0.0:80",
                "[::]:80 v6only",
                "0.0.0.0:443 ssl crt front.pem alpn h2,http/1.1",
                "[::]:443 v6only ssl crt front.pem alpn h2,http/1.1",
            ],
        ),
        (
            "http2 = False",
            False,
            ["0.0.0.0:80", "0.0.0.0:443 ssl crt front.pem alpn http/1.1"],
        ),
        ("https = False\nhttp_port = 8000", False, ["0.0.0.0:8000"]),
    ],
)
def test_doors(home: Home, settings: str, ipv6: bool, expected: list[str]) -> None:
    """Every address of the host lets visitors in, IPv6 where the kernel has it."""
    home.group("balancer", settings)
    assert expected == binds(home.load(), ipv6=ipv6)


def test_browsers_are_told_of_https_when_asked_to(home: Home) -> None:
    """On every answer that came by https; what the site says itself stays."""
    assert not any("Strict-Transport-Security" in line for line in _lines(home))
    home.pair()
    home.group("balancer", "certificate = 'www.pem'\nhsts_s = 3600")
    assert (
        'http-after-response set-header Strict-Transport-Security "max-age=3600"'
        " if secure !{ res.hdr(strict-transport-security) -m found }"
    ) in _lines(home)


def test_what_is_left_to_decide_is_said(home: Home) -> None:
    """HSTS once there is a certificate that browsers know, and Django's own list."""
    django = (
        "What Django would have you decide: tierstack-manage blog check --deploy, on a web host."
    )
    assert https_advice(home.load()) == [django]
    home.pair()
    home.group("balancer", "certificate = 'www.pem'")
    assert https_advice(home.load()) == [
        "HSTS: browsers still ask by http first; once https works for good, write hsts_s=3600 in"
        " balancer, and more later.",
        django,
    ]
    home.group("balancer", "certificate = 'www.pem'\nhsts_s = 3600")
    assert https_advice(home.load()) == [django]


def test_http_only_does_not_redirect(home: Home) -> None:
    """Without https nothing leads there, and no certificate is read."""
    home.group("balancer", "https = False")
    text = "\n".join(_lines(home))
    assert "redirect" not in text
    assert "front.pem" not in text


def test_redirect_names_an_unusual_port(home: Home) -> None:
    """The address that http leads to has the port that https has."""
    assert any("https://%[var(txn.host)]%[pathq] code 301" in line for line in _lines(home))
    home.group("balancer", "https_port = 8443")
    assert any("https://%[var(txn.host)]:8443%[pathq] code 301" in line for line in _lines(home))


def test_connections_fit_the_memory(home: Home) -> None:
    """A small balancer holds fewer visitors than the setting says."""
    cluster = home.load()
    assert balancer_connections(cluster, cluster.host("lb1")) == 4000
    home.inventory(HOSTS.replace('"10.0.0.10", "memory_mb": 1024', '"10.0.0.10", "memory_mb": 264'))
    cluster = home.load()
    assert balancer_connections(cluster, cluster.host("lb1")) == 1024


def test_table_of_servers_is_read() -> None:
    """Each server with its status, its requests and what its last check said."""
    assert HaproxyStat().process(_STAT.splitlines()) == [
        Server("web", "web1", "10.0.0.11:8080", "UP", 2, "L7OK 200", 17),
        Server("web", "web2", "10.0.0.12:8080", "DOWN", 0, "L4CON Connection refused", 4),
    ]
    assert HaproxyStat().process([]) == []


def _server(name: str, status: str, sessions: int = 0, backend: str = "web") -> Server:
    return Server(backend, name, "10.0.0.1:80", status, sessions, "", 0)


@pytest.mark.parametrize(
    ("servers", "leave", "back"),
    [
        ([_server("web1", "UP"), _server("web2", "UP")], [], []),
        ([_server("web1", "UP"), _server("web9", "UP")], ["web/web9"], []),
        ([_server("web1", "UP"), _server("web9", "DRAIN", sessions=2)], ["web/web9"], []),
        ([_server("web1", "UP"), _server("web9", "DRAIN")], [], []),
        ([_server("web1", "UP"), _server("web9", "DOWN")], [], []),
        ([_server("web1", "DRAIN"), _server("web2", "UP")], [], ["web/web1"]),
        ([_server("web1", "MAINT"), _server("web2", "UP")], [], []),
        ([_server("web1", "DOWN"), _server("web9", "UP")], [], []),
        ([_server("web1", "UP"), _server("x", "UP", backend="theirs")], [], []),
        ([], [], []),
    ],
    ids=[
        "all are wanted",
        "one is not",
        "it is still busy",
        "it is idle already",
        "it is down anyway",
        "one is wanted again",
        "somebody's maintenance is respected",
        "nobody else could take over",
        "another program's backend is left alone",
        "HAProxy does not run",
    ],
)
def test_who_leaves(servers: list[Server], leave: list[str], back: list[str]) -> None:
    """Only what has left the inventory is led away, and only where others can take over."""
    assert judge(servers, {"web": ["web1", "web2"], "media": []}) == (leave, back)
