"""A living cluster keeps its secrets: a file that is missing, cut short or another's is refused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.model.conftest import HOSTS, SITES, Home
from tierstack.model.identity import authority, irreplaceable, judge_secrets
from tierstack.secrets import load_secrets, secrets_at_hand, secrets_file

NEW = {"note": {}, "stamps": [], "ca": "", "sites": []}
NAMES = ["lb1", "web1", "web2", "db1", "db2", "cache1", "media1"]
EVERYBODY = "lb1, web1, web2, db1, db2, cache1 and media1"


def noted(home: Home) -> dict[str, Any]:
    """Deploy, as far as the hosts' notes go: return what each host says then."""
    secrets = load_secrets(home.load())
    note = {
        "id": secrets["cluster.id"],
        "authority": authority(secrets["cluster.ca_certificate"]),
        "secrets": irreplaceable(secrets.values),
    }
    return {name: {**NEW, "note": note, "stamps": ["base"]} for name in NAMES}


def before_notes(home: Home) -> dict[str, Any]:
    """Return what hosts say that were deployed before there were notes; the file has no id either."""
    secrets = load_secrets(home.load())
    remove(home, "id = ")
    found = {name: {**NEW, "stamps": ["base"]} for name in NAMES}
    authority = secrets["cluster.ca_certificate"]
    found["web1"] |= {"stamps": ["base", "web-sites"], "sites": ["blog"], "ca": authority}
    found["db1"] |= {"stamps": ["base", "db"], "ca": authority}
    return found


def remove(home: Home, start: str) -> None:
    """Delete the lines of the secrets file that begin so."""
    file = secrets_file(home.load())
    lines = file.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(start)]
    file.write_text("\n".join(kept) + "\n", encoding="utf-8")


def refused(home: Home, said: dict[str, Any]) -> list[str]:
    """Return what is wrong with the secrets file for hosts that say this."""
    cluster = home.load()
    return [str(mistake) for mistake in judge_secrets(cluster, secrets_at_hand(cluster), said)]


@pytest.mark.parametrize("living", [noted, before_notes])
def test_missing_file_is_refused(home: Home, living: Any) -> None:
    """A new laptop, CI, a renamed inventory: the file is asked for, and none is made."""
    said = living(home)
    assert refused(home, said) == []
    secrets_file(home.load()).rename(home.path / "old-name.secrets.toml")
    assert refused(home, said) == [
        f"prod.secrets.toml: there is no such file, and {EVERYBODY} were deployed with its secrets; put"
        " it beside the inventory (a copy, or under its old name); or, if it is lost for good, add"
        " --data new_secrets=yes: all are made anew, everybody is logged out, and requests may fail"
        " meanwhile"
    ]
    assert not secrets_file(home.load()).exists()


@pytest.mark.parametrize(("living", "who"), [(noted, EVERYBODY), (before_notes, "web1 and db1")])
def test_file_of_another_cluster_is_refused(
    home: Home, tmp_path_factory: pytest.TempPathFactory, living: Any, who: str
) -> None:
    """Two inventories swapped: every host that can tell says so."""
    said = living(home)
    other = Home(tmp_path_factory.mktemp("other"))
    load_secrets(other.load())
    secrets_file(other.load()).rename(secrets_file(home.load()))
    (found,) = refused(home, said)
    assert found == (
        "prod.secrets.toml: is of another cluster than the one with whose secrets"
        f" {who} were deployed; correct the hosts' addresses, or put that cluster's own file here; or,"
        " to have them join this one with this file's secrets, add --data new_secrets=yes"
    )


def test_copy_from_before_the_id_is_the_clusters_own(home: Home) -> None:
    """The authority is the same; the id that a plan has made meanwhile is taken over."""
    said = noted(home)
    remove(home, "id = ")
    assert refused(home, said) == []
    load_secrets(home.load())
    assert refused(home, said) == []


def test_one_host_of_another_cluster_is_named(home: Home) -> None:
    """A host that was a part of another cluster is not taken over by a slip in an address."""
    said = noted(home)
    said["web2"]["note"] = {**said["web2"]["note"], "id": "0123456789abcdef", "authority": "ab"}
    (found,) = refused(home, said)
    assert "with whose secrets web2 was deployed; correct the hosts' addresses" in found


@pytest.mark.parametrize("living", [noted, before_notes])
def test_missing_line_is_refused(home: Home, living: Any) -> None:
    """A file that was cut short, or lacks one site's password, is not filled up in silence."""
    said = living(home)
    remove(home, "database_password")
    assert refused(home, said) == [
        "prod.secrets.toml: sites.blog.database_password is missing, and "
        f"{EVERYBODY} were deployed with it; put it back from a copy of the file, or, to have a new one"
        " (of a variable: none), add --data new_secrets=yes"
    ]
    remove(home, "secret_key")
    (found,) = refused(home, said)
    assert "sites.blog.database_password and sites.blog.secret_key are missing" in found
    assert "put them back from a copy of the file, or, to have new ones (of a variable:" in found


def test_missing_variable_is_refused(home: Home) -> None:
    """A site's own secret is not forgotten with the end of a file."""
    load_secrets(home.load())
    file = secrets_file(home.load())
    whole = file.read_text(encoding="utf-8")
    file.write_text(f'{whole}[sites.blog.environment]\nMAIL_KEY = "k"\n', encoding="utf-8")
    said = noted(home)
    file.write_text(whole, encoding="utf-8")
    (found,) = refused(home, said)
    assert found.startswith("prod.secrets.toml: sites.blog.environment.MAIL_KEY is missing, and ")


def test_what_nobody_notices_is_made_anew(home: Home) -> None:
    """A host's certificate and key are signed by the same authority: nobody has to be asked."""
    said = noted(home)
    file = secrets_file(home.load())
    text = file.read_text(encoding="utf-8")
    assert "[hosts.db1]" in text
    file.write_text(
        text.partition("[hosts.db1]")[0] + "[hosts.db2]" + text.partition("[hosts.db2]")[2]
    )
    assert refused(home, said) == []


def test_new_hosts_and_sites_join(home: Home) -> None:
    """What the cluster never had is new, and so are hosts without a note."""
    said = noted(home)
    said["web2"] = dict(NEW)
    home.inventory(HOSTS.replace('("db2"', '("db3", {"address": "10.0.0.23"}), ("db2"'))
    home.project("shop")
    home.group("all", SITES.replace("blog", "shop"))
    assert refused(home, said) == []


def test_limited_run_that_cannot_know_is_refused(home: Home) -> None:
    """New hosts alone cannot tell whether the cluster lives; with the file at hand they need not."""
    alone = {"web2": dict(NEW)}
    everybody = {name: dict(NEW) for name in NAMES}
    assert refused(home, everybody) == []
    (found,) = refused(home, alone)
    assert found.startswith(
        "prod.secrets.toml: cluster.ca_key, cluster.replication_password, front.key,"
        " share.copy_password, sites.blog.database_password and sites.blog.secret_key are missing, and"
        " whether the cluster has them already cannot be told without lb1, web1, db1, db2, cache1 and"
        " media1, not asked in this run; put the cluster's file beside the inventory, or run it without"
        " --limit; or, where nothing was deployed yet, add --data new_secrets=yes"
    )
    load_secrets(home.load())
    assert refused(home, alone) == []


def test_what_was_made_is_said_by_name(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Names and never values; nothing the second time."""
    secrets = load_secrets(home.load())
    said = capsys.readouterr().err
    assert said == (
        "prod.secrets.toml: made cluster.ca_certificate, cluster.ca_key, cluster.id,"
        " cluster.replication_password, front.certificate, front.key, hosts.db1.certificate,"
        " hosts.db1.key, hosts.db2.certificate, hosts.db2.key, share.copy_password,"
        " sites.blog.database_password, sites.blog.secret_key; keep a copy of the file\n"
    )
    assert [name for name, value in secrets.values.items() if value in said] == []
    load_secrets(home.load())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ['""', '"  "', '{ command = ["echo", " "] }'])
def test_empty_value_is_refused(home: Home, value: str) -> None:
    """A store that prints an empty line gives no secret, and neither does an empty string."""
    file = home.path / "prod.secrets.toml"
    file.touch(mode=0o600)
    file.write_text(f"[sites.blog]\nsecret_key = {value}\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"prints nothing; try it|is empty; write the value, or delete"
    ):
        load_secrets(home.load())
