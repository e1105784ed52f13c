"""A site that is missing in the list is a slip, or it leaves; until then it keeps what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from roles import leaving, media
from roles.web import mod_python
from tests.model.conftest import SITES, Home
from tests.model.test_status import answers, line
from tierstack.model import Cluster
from tierstack.model.served import judge_sites, leaving_sites, served_names, site_notes
from tierstack.operations.config import Absent, File, Link, _loaded

SHOP = SITES.replace("blog", "shop").replace('name="shop",', 'name="shop", uid=5801,')


def noted(cluster: Cluster, *, served: bool = True) -> dict[str, Any]:
    """Return what the hosts of a deployed cluster say of its sites."""
    names = [site.name for site in cluster.sites] if served else []
    note = {"sites": site_notes(cluster, names)}
    return {name: {"note": note, "sites": ["blog"]} for name in ("web1", "media1")}


def renamed(home: Home, sites: str = SHOP) -> Cluster:
    """Return the cluster after its only site got another name."""
    home.project("shop")
    home.group("all", sites)
    return home.load()


def refused(cluster: Cluster, said: Any, *removed: str, everyone: bool = True) -> list[str]:
    """Return why the inventory's sites are refused."""
    return [str(mistake) for mistake in judge_sites(cluster, said, removed, everyone=everyone)]


def test_same_sites_are_right(home: Home) -> None:
    """Whoever keeps the names, or deploys for the first time, is asked nothing."""
    cluster = home.load()
    assert refused(cluster, noted(cluster)) == []
    assert refused(cluster, {"web1": {"note": {}, "sites": []}}) == []
    assert leaving_sites(cluster, noted(cluster)) == ()


def test_missing_site_is_asked_for(home: Home) -> None:
    """By name, with what a name is, and with the word for those who mean it."""
    said = noted(home.load())
    cluster = renamed(home)
    assert refused(cluster, said) == [
        "sites: blog is served, as web1 and media1 note, and is not in the list any more. A name is that"
        " of database, account and MEDIA_ROOT: a site under another one starts empty. Write"
        ' name="blog" again; or, if it is to go, add --data removed=blog: its database and its files'
        " stay where they are"
    ]
    assert refused(cluster, said, "blog") == []
    assert refused(cluster, said, "blog", everyone=False) == [
        "sites: blog can only leave on all hosts at once; run it without --limit"
    ]
    assert refused(cluster, said, "blog", "shop") == [
        "--data removed=shop: shop is in the inventory; delete its entry in sites, or leave the word out"
    ]


def test_number_of_its_account_is_not_given_away(home: Home) -> None:
    """Its files belong to a number, which another site must not get."""
    said = noted(home.load())
    cluster = renamed(home, SITES.replace("blog", "shop"))
    assert refused(cluster, said, "blog") == [
        "sites[0].uid: 5800 is the number of blog's account, whose files stay on the hosts; write"
        " uid=5801 for shop, and leave it there"
    ]


def test_site_that_never_served_leaves_unasked(home: Home) -> None:
    """Whoever takes a failed beginning back loses nothing by it."""
    said = noted(home.load(), served=False)
    cluster = renamed(home)
    assert refused(cluster, said) == []
    assert [site.name for site in leaving_sites(cluster, said)] == ["blog"]
    assert served_names(said) == set()


def test_site_of_before_the_notes_is_not_guessed(home: Home) -> None:
    """What it is served as is in no note: one deploy under its name brings it."""
    cluster = renamed(home)
    assert refused(cluster, {"web1": {"note": {}, "sites": ["blog"]}}, "blog") == [
        "sites: web1 has settings of blog, which is not in the list, and no note of it yet; write"
        ' name="blog" again, and deploy once before it goes'
    ]
    # That one is refused where the name is somebody else's.
    assert refused(cluster, {"web1": {"note": {}, "sites": ["news"]}}, "news") == [
        "sites: web1 has settings of news, which is not in the list, and no note of it yet; the name"
        " belongs to Debian, and no site may have it any more: how it gets another one by hand is in"
        " docs/moving.md"
    ]


def test_old_site_keeps_its_names_and_files(home: Home) -> None:
    """Where both have a domain, lighttpd shows the old one's files until it has left."""
    said = noted(home.load())
    more = SHOP.replace('"www.example.com"', '"www.example.com", "new.example.com"')
    cluster = renamed(home, more.replace("domains=", 'static_url="/assets/", domains='))
    cluster = replace(cluster, leaving=leaving_sites(cluster, said))
    hosts = media._virtual_hosts(cluster)
    assert [site["hosts"] for site in hosts] == [
        r"^(?:new\.example\.com)(?::[0-9]+)?$",
        r"^(?:www\.example\.com)(?::[0-9]+)?$",
    ]
    assert {alias["url"]: alias["path"] for alias in hosts[1]["directories"]} == {
        "/static/": "/srv/blog/static",
        "/assets/": "/srv/shop/static",
        "/media/": "/srv/blog/media",
    }
    assert [alias["or_else"] for alias in hosts[1]["directories"]] == ["", "else ", "else "]
    assert [site["hosts"] for site in media._virtual_hosts(cluster.without_leaving())] == [
        r"^(?:www\.example\.com|new\.example\.com)(?::[0-9]+)?$"
    ]
    assert leaving.what_stays(cluster) == (
        "Site blog has left; its database blog, and its files in /srv/blog/media on media1, stay"
    )


def test_apache_is_told_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old virtual host goes in the change that brings the new one; the next run restarts nothing."""
    said = noted(home.load())
    cluster = renamed(home)
    monkeypatch.setattr(mod_python, "_site_entries", lambda *given: [])
    new = replace(cluster, leaving=leaving_sites(cluster, said))
    web1 = cluster.host("web1")
    with_old: Any = mod_python._entries(new, web1, None)  # type: ignore[arg-type]
    without: Any = mod_python._entries(cluster, web1, None)  # type: ignore[arg-type]
    assert [entry for entry in with_old if entry not in without] == [
        Absent(f"/etc/apache2/sites-{state}/blog.conf", needs="restart", once=True)
        for state in ("enabled", "available")
    ]
    assert _loaded(with_old) == _loaded(without)
    assert isinstance(without[1], (File, Link))


def test_status_names_who_serves_instead(home: Home) -> None:
    """A host that serves another site than the inventory's is not well."""
    cluster = renamed(home)
    said = answers()
    said["web1"] |= {"releases": {"shop": ""}, "mounts": {"shop": True}, "noted": ["blog"]}
    found = line(cluster, said, "web1")
    assert (found.good, found.notes) == (
        False,
        "has no release of shop; serves blog, which the inventory has no more; type: tierstack plan"
        f" {cluster.inventory}",
    )
