"""Every setting by which a server answers with other headers is one whose pages are looked at."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from roles import balancer, media
from roles.web import mod_python
from tests.ladder.header_settings import CHANGES
from tests.model.conftest import HOSTS, REQUIREMENTS, SITES, Home
from tierstack.model.settings import TIER_SETTINGS, SiteSettings
from tierstack.operations.config import File, Link
from tierstack.secrets import Secrets, load_secrets

#: Lines by which Apache, lighttpd and HAProxy say what an answer's headers are, but for when: a limit
#: adds none.
_SAYS = re.compile(
    r"\b(Header|AddType|AddCharset|AddEncoding|AddLanguage|ForceType|TypesConfig|Redirect) .*"
    r'|"[A-Z][\w-]+" => ".*"'
    r"|http-(after-)?(request|response) .*\b(hdr|(add|set|del|replace)-(header|value)|redirect)\b.*?(?= if |$)"
    r"|\balpn .*",
    re.MULTILINE,
)

#: What settings are set to that are neither numbers nor yes or no.
_OTHER: dict[str, Any] = {
    "project": "sub",
    "include": ["*.mo"],
    "source": "other",
    "settings": "other.settings",
    "requirements": "other.txt",
    "domains": ["www.example.org"],
    "environment": {"A": "b"},
    "packages": ["gettext"],
    "build": ["true"],
    "extensions": ["citext"],
    "media_url": "/uploads/",
    "static_url": "/assets/",
    "document_root": "public",
    "file_extensions": ["txt"],
    "local_caches": ["parts"],
    "replica_alias": "replica",
    "pages": ["/about/"],
    "uid": 5900,
    "workers": 3,
    "incoming": ["tcp 9100"],
    "outgoing": ["tcp 443"],
    "certificate": "www.pem",
    "trusted_proxies": ["203.0.113.5"],
    "share": "sshfs",
}

#: What another setting must be for one to be allowed.
_WITH: dict[str, dict[str, Any]] = {
    "document_root": {"file_extensions": ["txt"]},
    "file_extensions": {"document_root": "public"},
    "hsts_s": {"certificate": "www.pem"},
}

#: One has a single value, and the other is what files and secrets are called by.
_LEFT_OUT = ("engine", "name")


def _fields() -> Iterator[tuple[str, str, FieldInfo]]:
    models: dict[str, type[BaseModel]] = {"sites": SiteSettings, **TIER_SETTINGS}
    for tier, model in models.items():
        for key, field in model.model_fields.items():
            if key not in _LEFT_OUT:
                yield tier, key, field


def _other(key: str, field: FieldInfo) -> Any:
    if key in _OTHER:
        return _OTHER[key]
    if isinstance(field.default, bool):
        return not field.default
    assert "int" in str(field.annotation), f"say in this test what {key} may be set to"
    return 123 if field.default is None else field.default + 10


def _set(home: Home, tier: str, settings: dict[str, Any]) -> None:
    line = f"sites[0].update({settings!r})" if tier == "sites" else f"{tier} = {settings!r}"
    home.group("all", SITES + f"    {line}\n")


def _answers(home: Home, secrets: Secrets) -> set[str]:
    """Return what servers are told of headers and modules, without what names a release."""
    cluster = home.load()
    entries = mod_python._entries(cluster, cluster.host("web1"), secrets)
    texts = [entry.content for entry in entries if isinstance(entry, File)]
    texts.append(balancer.configuration(cluster, cluster.host("lb1"), ipv6=True))
    texts += [media.configuration(cluster, host) for host in cluster.tier("media")]
    found = {match[0] for text in texts for match in _SAYS.finditer(text.decode())}
    return found | {e.path for e in entries if isinstance(e, Link) and "mods-enabled" in e.path}


def test_settings_of_headers_are_walked(home: Home) -> None:
    """What changes a header or a module stands among the settings that tests/ladder looks at."""
    home.pair()
    for name in ("blog/public", "blog/sub"):
        (home.path / name).mkdir()
    (home.path / "blog/sub/manage.py").touch()
    (home.path / "blog/other.txt").write_text(REQUIREMENTS, encoding="utf-8")
    home.project("other")
    secrets = load_secrets(home.load())
    found = set()
    # Once with a media host, once with a web host that serves the files.
    alone = re.sub(r'    media = .*\n|        \("web2".*\n', "", HOSTS)
    for hosts in (HOSTS, alone):
        home.inventory(hosts)
        for tier, key, field in _fields():
            if tier == "media" and hosts is alone and key != "max_age_s":
                continue
            others = _WITH.get(key, {})
            _set(home, tier, others if tier == "balancer" else {})
            before = _answers(home, secrets)
            _set(home, tier, {**others, key: _other(key, field)})
            if _answers(home, secrets) != before:
                found.add((tier, key))
    walked = {(tier, key) for change in CHANGES.values() for tier in change for key in change[tier]}
    assert len(found) >= 6
    assert found - walked == set()
