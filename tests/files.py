"""Files as visitors get them, by ordinary URLs and by tricks: the same answers from every server."""

from __future__ import annotations

import json

from tests.operator import Operator, wait_until

ROOT = "/srv/example/media/tricks"
_MEDIA, _STATIC = "public, max-age=3600", "public, max-age=3600"
_FOREVER = "public, max-age=31536000, immutable"

#: What lies there, each file with its own name in it.
_FILES = (
    "evil.html", "evil.svg", "evil.html.png", "evil.png.html", "evil.xhtml", "evil.XML", "a b.png",
    "UPPER.PNG", "pic.0123456789ab.png", "pic.gif.gz", "what.unknown", "noextension", "semi;x.png",
    "q?x.png", "back\\slash.png", "per%2Fcent.png", "note.txt", "style.css", "paper.pdf", "nl\n.png",
    ".hidden", ".hidden.png", "in/side.svg", "in/.hidden.png",
    ".thumbs/small.png", ".thumbs/evil.svg", ".thumbs/.hidden.png", ".git/config.png",
    "in/.Trash-1000/old.png",
)  # fmt: skip
_LINKS = {"link.png": "UPPER.PNG", "linked": "in", "out.txt": "/etc/hostname"}

#: URLs of files that are served: the type, and whether it is in a sandbox.
_SERVED = {
    "evil.html": ("text/html", True),
    "evil.svg": ("image/svg+xml", True),
    "evil%2esvg": ("image/svg+xml", True),
    "%65vil.svg": ("image/svg+xml", True),
    "evil.svg?x.png": ("image/svg+xml", True),
    "evil.svg?/x.png": ("image/svg+xml", True),
    "evil.svg?/../.hidden": ("image/svg+xml", True),
    ".thumbs/small.png": ("image/png", False),
    "%2Ethumbs/evil.svg": ("image/svg+xml", True),
    "in/side.svg": ("image/svg+xml", True),
    "evil.png.html": ("text/html", True),
    "evil.xhtml": ("application/xhtml+xml", True),
    "evil.XML": ("application/xml", True),
    "style.css": ("text/css;charset=utf-8", True),
    "pic.gif.gz": ("application/gzip", True),
    "what.unknown": ("application/octet-stream", True),
    "noextension": ("application/octet-stream", True),
    "evil.html.png": ("image/png", False),
    "UPPER.PNG": ("image/png", False),
    "pic.0123456789ab.png": ("image/png", False),
    "a%20b.png": ("image/png", False),
    "semi;x.png": ("image/png", False),
    "semi%3Bx.png": ("image/png", False),
    "q%3Fx.png": ("image/png", False),
    "back%5Cslash.png": ("image/png", False),
    "per%252Fcent.png": ("image/png", False),
    "note.txt": ("text/plain;charset=utf-8", False),
    "paper.pdf": ("application/pdf", False),
}

#: URLs that lead to no file, and how they are answered.
_REFUSED = {
    "": 404, "in": 404, "in/": 404, "missing.png": 404, "EVIL.svg": 404,
    # A file, and more.
    "evil.html/x.png": 404, "evil.html/": 404, "UPPER.PNG/": 404, "evil.html;/x.png": 404,
    "evil.html/x.0123456789ab.png": 404, "evil.svg;x.png": 404, "evil.svg%3Fx.png": 404,
    "evil.svg%23x.png": 404, "..%5C..%5Cetc": 404,
    # Hidden.
    ".hidden": 404, ".hidden.png": 404, "%2ehidden": 404, "in/.hidden.png": 404,
    ".thumbs/.hidden.png": 404, ".git/config.png": 404, "in/.Trash-1000/old.png": 404, ".thumbs": 404,
    ".thumbs/small.png/x.svg": 404,
    "../.tierstack-home": 400,
    # What leads elsewhere.
    "link.png": 403, "linked/side.svg": 403, "out.txt": 403,
    # Paths in more than one spelling.
    "/evil.svg": 400, "./evil.svg": 400, "in/../evil.svg": 400, "in/%2e%2e/evil.svg": 400,
    "in/.%2E/evil.svg": 400, "in//side.svg": 400, "in/./side.svg": 400, "in%2Fside.svg": 400,
    "%2fevil.svg": 400, "in/..%2fevil.svg": 400, "..": 400, "%2E%2e": 400,
    "../../../../../etc/passwd": 400, "evil.svg%0a.png": 400, "nl%0A.png": 400, "x%7F.png": 400,
}  # fmt: skip

#: To the balancer these are no URLs of files: the site answers, who knows none of them.
_OF_THE_SITE = (
    "/%2Fmedia/tricks/evil.svg", "/%2fmedia/tricks/.hidden", "//media/tricks/evil.svg",
    "/media%2Ftricks/evil.svg", "/%6dedia/tricks/evil.svg", "/./media/tricks/evil.svg",
    "/x/../media/tricks/evil.svg", "/MEDIA/tricks/evil.svg", "/%2e/media/tricks/evil.svg",
    "/%2Fstatic/css/site.css", "/media", "/x/..%2fmedia/tricks/evil.svg",
)  # fmt: skip

# One answer of each kind a line: a host asks by itself, for servers talk to the cluster only.
_ASK = """
import http.client, json, sys
address, port, host, paths = json.load(sys.stdin)
for path in paths:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    connection.request("GET", path, headers={"Host": host, "Connection": "close"})
    answer = connection.getresponse()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    print(json.dumps([answer.status, headers, answer.read().decode(errors="replace")]))
"""

Answers = dict[str, tuple[int, dict[str, str], str]]


def assert_no_trick_gets_a_file(operator: Operator) -> None:
    """
    No URL leads to a file without its headers, to a hidden one or out of MEDIA_ROOT.

    Asked are the front door, and each host that serves files.
    """
    cluster = operator.cluster()
    home = cluster.media_home.name
    # Evenly from all hosts: links are copied as such.
    for command in _seeding():
        operator.ask(home, "runuser -u example -- sh -e", given=command)
    servers = {
        host.name: (host.address, cluster.settings.media.port) for host in cluster.tier("media")
    } or {"web1": (cluster.host("web1").address, cluster.settings.web.port)}
    static = operator.door.ask("/").text.partition('href="/static/')[2].partition('"')[0]
    files = _expected(static)
    try:
        for name, server in servers.items():
            there = f"test -e {ROOT}/zz"
            wait_until(f"{name} has them", lambda: operator.on(name, there).status == 0, 15)  # noqa: B023
            _compare(name, files, _answers_of(operator, *server, list(files)))
        door = {path: operator.door.ask(path) for path in (*files, *_OF_THE_SITE)}
        of_site = dict.fromkeys(_OF_THE_SITE, (404, "", "", ""))
        _compare(
            "the front door",
            {**files, **of_site},
            {path: (answer.status, answer.headers, answer.text) for path, answer in door.items()},
        )
        part = operator.door.ask("/media/tricks/evil.svg", headers={"Range": "bytes=0-3"})
        assert (part.status, part["content-security-policy"]) == (206, "sandbox")
        assert operator.door.ask("/media/tricks/evil.svg", "POST", b"x").status == 405
    finally:
        operator.ask(home, f"rm -r {ROOT}")


def _seeding() -> list[str]:
    folders = sorted({name.rpartition("/")[0] for name in _FILES if "/" in name})
    lines = [f"mkdir -p {ROOT} && cd {ROOT} && mkdir -p {' '.join(folders)}"]
    lines += [f"printf '%s' {_quoted(f'is {name}')} > {_quoted(name)}" for name in _FILES]
    lines += [f"ln -s {target} {name}" for name, target in _LINKS.items()]
    return ["\n".join([*lines, "touch zz"])]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _expected(static: str) -> dict[str, tuple[int, str, str, str]]:
    """Return status, type, Content-Security-Policy and Cache-Control by URL; static is a hashed name."""
    found = {
        f"/media/tricks/{path}": (200, kind, "sandbox" if sandbox else "", _MEDIA)
        for path, (kind, sandbox) in _SERVED.items()
    }
    found |= {f"/media/tricks/{path}": (status, "", "", "") for path, status in _REFUSED.items()}
    css = (200, "text/css;charset=utf-8", "")
    return found | {
        "/static/css/site.css": (*css, _STATIC),
        f"/static/{static}": (200, "image/svg+xml", "", _FOREVER),
        "/static/css/site.css/x.0123456789ab.css": (404, "", "", ""),
        "/static/css": (404, "", "", ""),
        "/static/.releases/": (404, "", "", ""),
        "/static//css/site.css": (400, "", "", ""),
        "/static/../static/css/site.css": (400, "", "", ""),
        "/media/../static/css/site.css": (400, "", "", ""),
    }


def _answers_of(operator: Operator, address: str, port: int, paths: list[str]) -> Answers:
    asker = operator.cluster().tier("balancer")[0].name
    given = json.dumps([address, port, "example.test", paths])
    lines = operator.ask(asker, f"python3 -c '{_ASK}'", given=given).splitlines()
    return dict(zip(paths, (json.loads(line) for line in lines), strict=True))


def _compare(who: str, expected: dict[str, tuple[int, str, str, str]], got: Answers) -> None:
    wrong = []
    for path, wanted in expected.items():
        status, headers, text = got[path]
        seen = (status, "", "", "")
        if status < 400:
            kind = headers.get("content-type", "").replace("; ", ";")
            policy, cache = (
                headers.get(name, "") for name in ("content-security-policy", "cache-control")
            )
            seen = (status, kind, policy, cache)
            if headers.get("x-content-type-options") != "nosniff":
                wrong.append(f"{path}: no nosniff")
        elif text.startswith("is "):
            wrong.append(f"{path}: has a file's text, {text!r}")
        if seen != wanted:
            wrong.append(f"{path}: {seen}, not {wanted}")
    assert wrong == [], f"{who}:\n" + "\n".join(wrong)
