"""Secrets are made once, kept for their owner only, and certificates follow the inventory."""

from __future__ import annotations

import json
import stat
import subprocess
import tomllib
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509

from roles.web.settings import settings_module
from tests.model.conftest import HOSTS, SITES, Home, pyinfra
from tierstack.cli import main
from tierstack.model import InventoryError
from tierstack.model.release import Release
from tierstack.plan import hidden_values
from tierstack.secrets import check_secrets, load_secrets, secrets_file

ONE = "prod.py: 1 error, no host was touched"


def test_secrets_are_made_once(home: Home) -> None:
    """A second run reads what the first has made; only the owner may read the file."""
    first = load_secrets(home.load())
    again = load_secrets(home.load())
    assert first.values == again.values
    assert stat.S_IMODE(secrets_file(home.load()).stat().st_mode) == 0o600
    assert first["sites.blog.database_password"] not in repr(first)


def test_certificate_follows_the_address(home: Home) -> None:
    """A host with another address gets another certificate; the others keep theirs."""
    first = load_secrets(home.load())
    home.inventory(HOSTS.replace("10.0.0.21", "10.0.0.29"))
    again = load_secrets(home.load())
    assert again["hosts.db1.certificate"] != first["hosts.db1.certificate"]
    assert again["hosts.db2.certificate"] == first["hosts.db2.certificate"]
    assert again["hosts.db1.key"] == first["hosts.db1.key"]


def test_file_for_others_is_refused(home: Home) -> None:
    """A secrets file that others may read is refused with the inventory's other mistakes."""
    load_secrets(home.load())
    home.group("web", "wokers = 5")
    for mode in (0o640, 0o604):
        (home.path / "prod.secrets.toml").chmod(mode)
        assert home.refusal() == [
            "prod.py: 2 errors, no host was touched",
            "prod.secrets.toml: can be read by others; type: chmod 600 prod.secrets.toml",
            "web.wokers: unknown; did you mean workers?",
        ]


def test_file_in_git_is_refused(home: Home) -> None:
    """A secrets file that git tracks is refused; one that git ignores, or may track, is not."""
    _git(home, "init", "-q")
    load_secrets(home.load())
    (home.path / ".gitignore").write_text("*.secrets.toml\n", encoding="utf-8")
    home.load()
    _git(home, "add", "--force", "prod.secrets.toml")
    assert home.refusal() == [
        ONE,
        "prod.secrets.toml: git tracks it, and whoever has the repository has the secrets; type:"
        f" git -C {home.path} rm --cached prod.secrets.toml, and if it was pushed, delete its lines,"
        " so that new ones are made",
    ]
    _git(home, "rm", "-q", "--cached", "prod.secrets.toml")
    home.load()


def test_broken_file_is_refused_without_its_text(home: Home) -> None:
    """A secrets file that is not TOML is refused with the position, not with what stands there."""
    _write(home, '[cluster]\nreplication_password = "top-secret\n')
    assert home.refusal() == [
        ONE,
        "prod.secrets.toml: is not valid TOML (line 2, column 35); correct that line",
    ]


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (
            "4711",
            "is neither a string nor a command; write it in quotes, or"
            ' { command = ["pass", "show", "shop/database"] }',
        ),
        (
            '{ command = "pass show x" }',
            "is not a command as a list of words; write e.g."
            ' { command = ["pass", "show", "shop/database"] }',
        ),
        (
            "{ command = [] }",
            "is not a command as a list of words; write e.g."
            ' { command = ["pass", "show", "shop/database"] }',
        ),
        (
            '{ command = ["pass"], shell = true }',
            "is not a command as a list of words; write e.g."
            ' { command = ["pass", "show", "shop/database"] }',
        ),
    ],
)
def test_wrong_value_is_refused(home: Home, value: str, what: str) -> None:
    """What is neither text nor a command is refused, and not shown."""
    _write(home, f"[sites.blog]\ndatabase_password = {value}\n")
    assert home.refusal() == [ONE, f"prod.secrets.toml: sites.blog.database_password: {what}"]


def test_command_gives_the_value_once_a_run(home: Home) -> None:
    """A command's output without its last newline is the value, and the file keeps the command."""
    words = ["sh", "-c", "echo x >> asked; printf 'from a \\\\ \"store\"\\n'"]
    _write(home, f"[sites.blog]\ndatabase_password = {{ command = {json.dumps(words)} }}\n")
    for _ in range(2):
        secrets = load_secrets(home.load())
        assert secrets["sites.blog.database_password"] == 'from a \\ "store"'
    assert (home.path / "asked").read_text(encoding="utf-8") == "x\n"
    text = (home.path / "prod.secrets.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["sites"]["blog"]["database_password"] == {"command": words}
    assert "secret_key" in tomllib.loads(text)["sites"]["blog"], "made beside it"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["no-such-store"], 'there is no program "no-such-store"; install it, or write the value'),
        (
            ["./prod.py"],
            '"./prod.py" cannot be run: Permission denied; correct that, or write the value',
        ),
        (
            ["sh", "-c", "echo top-secret; echo 'it is\nlocked' >&2; exit 3"],
            '"sh" failed with status 3 (it is locked); try it by hand in {home}',
        ),
        (["false"], '"false" failed with status 1; try it by hand in {home}'),
        (["echo"], '"echo" prints nothing; try it by hand in {home}'),
        (["printf", "\\377top-secret"], '"printf" prints what is not UTF-8 text; encode it'),
        (
            ["sh", "-c", "echo top-secret; exec sleep 60"],
            '"sh" has not ended after 0.3 s and was stopped; try it by hand in {home}',
        ),
        (
            ["printf", "top-secret\nlogin: me\n"],
            "has a line break or a null byte, which a password file of PostgreSQL cannot hold;"
            " write a password without",
        ),
    ],
)
def test_failing_command_is_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, words: list[str], what: str
) -> None:
    """A command that gives no value is told with its own errors, never with what it has printed."""
    monkeypatch.setattr("tierstack.secrets_file._COMMAND_TIMEOUT_S", 0.3)
    _write(home, f"[sites.blog]\ndatabase_password = {{ command = {json.dumps(words)} }}\n")
    with pytest.raises(InventoryError) as caught:
        load_secrets(home.load())
    assert str(caught.value) == (
        f"{ONE}\n  prod.secrets.toml: sites.blog.database_password: {what.format(home=home.path)}"
    )
    assert not (home.path / "asked").exists()


def test_misspelt_name_is_refused(home: Home) -> None:
    """A slip in a name would be a password that nobody uses; what a removed host had is kept."""
    _write(
        home,
        '[cluster]\nreplicaton_password = "a"\n[sites.blog]\npassword = "b"\n'
        '[hosts.gone]\nkey = "c"\n[sites.gone]\npasword = "d"\n',
    )
    with pytest.raises(InventoryError) as caught:
        load_secrets(home.load())
    assert str(caught.value).splitlines() == [
        "prod.py: 2 errors, no host was touched",
        "  prod.secrets.toml: cluster.replicaton_password: unknown;"
        " did you mean cluster.replication_password?",
        "  prod.secrets.toml: sites.blog.password: unknown;"
        " did you mean sites.blog.database_password?",
    ]


def test_variables_of_a_site_may_be_secret(home: Home) -> None:
    """Beside the passwords, by value or by command; what the site says itself stays apart."""
    home.group("all", SITES.replace("domains=", 'environment={"THEME": "dark"}, domains='))
    table = '[sites.blog.environment]\nMAIL_KEY = "k\'1"\nAPI_KEY = { command = ["echo", "from a store"] }\n'
    _write(home, table)
    cluster = home.load()
    assert check_secrets(cluster) == []
    found = load_secrets(cluster)
    assert found.environment("blog") == {"MAIL_KEY": "k'1", "API_KEY": "from a store"}
    text = (home.path / "prod.secrets.toml").read_text(encoding="utf-8")
    assert text.count("from a store") == 1, "what a command prints is not written down"
    host, site = cluster.tier("web")[0], cluster.sites[0]
    module = settings_module(cluster, host, site, Release("0" * 12, "/srv/blog/x"), found).decode()
    assert (
        """_FROM_USER = {'THEME': 'dark', 'API_KEY': 'from a store', 'MAIL_KEY': "k'1"}""" in module
    )
    assert {"k'1", "from a store"} <= set(hidden_values(cluster))


def test_wrong_variables_are_refused(home: Home) -> None:
    """A name that is none, and one that stands in group data, too."""
    home.group("all", SITES.replace("domains=", 'environment={"THEME": "dark"}, domains='))
    _write(home, '[sites.blog.environment]\nTHEME = "light"\n"MY-KEY" = "k"\n')
    assert [str(mistake) for mistake in check_secrets(home.load())] == [
        "prod.secrets.toml: sites.blog.environment.THEME: stands in environment of blog, too;"
        " delete one of both",
        "prod.secrets.toml: sites.blog.environment.MY-KEY: is not the name of a variable; write"
        " letters, digits and _",
    ]


def test_certificate_by_command_that_does_not_fit_is_refused(home: Home) -> None:
    """A certificate that a command prints is never replaced by one of our own."""
    _write(home, '[front]\ncertificate = { command = ["echo", "no certificate"] }\n')
    with pytest.raises(InventoryError) as caught:
        load_secrets(home.load())
    assert str(caught.value) == (
        f"{ONE}\n  prod.secrets.toml: front.certificate: what its command prints does not fit the"
        " other keys or the inventory's names, or is over within 30 days; renew it, or delete the"
        " line for one of the cluster's own"
    )
    assert "echo" in (home.path / "prod.secrets.toml").read_text(encoding="utf-8")


def test_deploy_asks_commands_before_it_connects(home: Home) -> None:
    """pyinfra ends with status 2 before a connection; a task without secrets does not ask."""
    words = ["sh", "-c", "echo asked >> asked; echo top-secret; echo locked >&2; exit 1"]
    _write(home, f"[sites.blog]\nsecret_key = {{ command = {json.dumps(words)} }}\n")
    done = pyinfra(home.path / "prod.py", "deploy.py", "-y")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "1 error, no host was touched\n  prod.secrets.toml: sites.blog.secret_key:"
        f' "sh" failed with status 1 (locked); try it by hand in {home.path}\n'
    )
    assert "Connecting" not in done.stdout + done.stderr
    assert "top-secret" not in done.stdout + done.stderr
    assert (home.path / "asked").read_text(encoding="utf-8") == "asked\n"
    # No host is there either: it is enough that pyinfra gets as far as connecting.
    home.group("prod", 'ssh_hostname = "127.0.0.1"; ssh_port = 1')
    done = pyinfra(home.path / "prod.py", "tasks/drain.py", "--data", "node=web2", "-y")
    assert "Connecting" in done.stdout + done.stderr
    assert (home.path / "asked").read_text(encoding="utf-8") == "asked\n"


def test_check_asks_commands(home: Home) -> None:
    """`tierstack check` tries the commands too, and tells what they say."""
    _write(home, '[sites.blog]\nsecret_key = { command = ["false"] }\n')
    done = CliRunner().invoke(main, ["check", str(home.path / "prod.py")])
    assert (done.exit_code, done.stderr) == (
        2,
        f"{home.path}/prod.py: 1 error, no host was touched\n"
        '  prod.secrets.toml: sites.blog.secret_key: "false" failed with status 1;'
        f" try it by hand in {home.path}\n",
    )


def _write(home: Home, text: str) -> None:
    file = home.path / "prod.secrets.toml"
    file.touch(mode=0o600)
    file.write_text(text, encoding="utf-8")


def _git(home: Home, *arguments: str) -> None:
    subprocess.run(["git", "-C", home.path, *arguments], check=True)


@pytest.mark.parametrize("name", ["hosts.db1.key", "cluster.ca_key", "cluster.ca_certificate"])
def test_deleted_key_takes_its_certificates_with_it(home: Home, name: str) -> None:
    """A line is deleted: what hung on it is made anew too, and all fits together again."""
    first = load_secrets(home.load())
    file = secrets_file(home.load())
    tables = tomllib.loads(file.read_text(encoding="utf-8"))
    table = tables
    *path, last = name.split(".")
    for part in path:
        table = table[part]
    del table[last]
    file.write_text(_toml(tables), encoding="utf-8")
    again = load_secrets(home.load())
    assert again["hosts.db1.certificate"] != first["hosts.db1.certificate"]
    ca = x509.load_pem_x509_certificate(again["cluster.ca_certificate"].encode())
    for prefix in ("hosts.db1", "hosts.db2", "front"):
        certificate = x509.load_pem_x509_certificate(again[f"{prefix}.certificate"].encode())
        certificate.verify_directly_issued_by(ca)
    assert again["sites.blog.secret_key"] == first["sites.blog.secret_key"]


def _toml(table: dict[str, Any], prefix: str = "") -> str:
    values = {key: value for key, value in table.items() if isinstance(value, str)}
    text = f"[{prefix}]\n" if values else ""
    text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
    for key, value in table.items():
        if isinstance(value, dict):
            text += _toml(value, f"{prefix}.{key}" if prefix else key)
    return text
