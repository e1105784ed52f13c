"""Every mistake in an inventory has a full message, and several come in one list."""

from __future__ import annotations

import importlib.metadata
from textwrap import dedent

import pytest

from tests.model.conftest import HOSTS, SITES, Home, pyinfra
from tierstack.inventory import CHECKOUT
from tierstack.model.names import owner_of_site_name

ONE = "prod.py: 1 error, no host was touched"


def test_right_inventory_is_accepted(home: Home) -> None:
    """The inventory that the other tests make wrong is right."""
    assert [host.name for host in home.load().tier("web")] == ["web1", "web2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('"address": "10.0.0.11"', '"adress": "10.0.0.11"'),
            "web[0].adress: unknown; did you mean address?",
        ),
        (
            ('"10.0.0.21"', '"10.0.3.300"'),
            'db[0].address: "10.0.3.300" is not an IPv4 address; write e.g. "10.0.3.30"',
        ),
        (
            ('"10.0.0.12"', '"10.0.0.11"'),
            "web[1].address: 10.0.0.11 already belongs to web1; write the address of this host",
        ),
        (
            ('"web2"', '"web1"'),
            'web[1]: host name "web1" stands twice in web; delete one line',
        ),
        (
            ('"address": "10.0.0.10", ', ""),
            'balancer[0].address: lb1 has no address; write ("lb1", {"address": "10.0.0.11"})',
        ),
        (
            ('"10.0.0.10"', '"127.0.0.1"'),
            'balancer[0].address: "127.0.0.1" cannot be reached by other hosts;'
            " write the host's address in the cluster",
        ),
        (
            ('"memory_mb": 1024})]', '"memory_mb": "1024"})]'),
            "balancer[0].memory_mb: '1024' is not a whole number; write 1024",
        ),
        (
            ('"10.0.0.11"', '"192.0.2.11"'),
            "web[0].address: 192.0.2.11 is an example's address, which no host has;"
            " write the address of web1",
        ),
        (
            (
                '[("cache1", {"address": "10.0.0.31", "memory_mb": 512})]',
                '("cache1", {"address": "10.0.0.31"})',
            ),
            "cache: is one host and no list; write [('cache1', {'address': '10.0.0.31'})]",
        ),
        (
            (
                '[("cache1", {"address": "10.0.0.31", "memory_mb": 512})]',
                '([("cache1", {"address": "10.0.0.31"})], {"memory_mb": 512})',
            ),
            "cache: is a pair of hosts and data, which is not read; write the data in the hosts'"
            " lines, or in group_data/cache.py",
        ),
        (
            ('("lb1"', '("LB_1"'),
            'balancer[0]: "LB_1" is not a host name; write small letters, digits, hyphens and dots',
        ),
        (
            ('("lb1"', '("web"'),
            'balancer[0]: "web" is a tier, and no name for a host; write another, e.g. "web1"',
        ),
        (
            ('("lb1"', '("all"'),
            'balancer[0]: "all" is the group of all hosts, and no name for a host; write another, e.g.'
            ' "all1"',
        ),
        (
            ('("lb1"', '("prod"'),
            'balancer[0]: "prod" is this inventory, and no name for a host; write another, e.g. "prod1"',
        ),
        (
            ('("lb1"', '("localhost.localdomain"'),
            'balancer[0]: "localhost.localdomain" is every host\'s name for itself, and no name for a'
            ' host; write another, e.g. "localhost1"',
        ),
        (
            ("    web = [", "    wbe = [], []\n    web = ["),
            "wbe: is not a tier; did you mean web?",
        ),
        (
            ('[("cache1", {"address": "10.0.0.31", "memory_mb": 512})]', "[42]"),
            'cache[0]: 42 is not a host; write e.g. ("web1", {"address": "10.0.0.11"})',
        ),
    ],
)
def test_host_line_is_refused(home: Home, change: tuple[str, str], message: str) -> None:
    """A wrong line names its group, its place, what is wrong and what to write."""
    assert change[0] in HOSTS
    home.inventory(HOSTS.replace(*change, 1))
    lines = home.refusal()
    assert lines == [ONE, message]


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        ("web", "wokers = 5", "web.wokers: unknown; did you mean workers?"),
        (
            "base",
            "allow_public_clear_text = 'true'",
            "base.allow_public_clear_text: 'true' is not True or False; write True",
        ),
        ("web", "port = '80'", "web.port: '80' is not a whole number; write 80"),
        ("db", "port = 70000", "db.port: 70000 is too large; write at most 65535"),
        ("media", "share = 'smb'", "media.share: 'smb' is not known; write 'nfs' or 'sshfs'"),
        (
            "web",
            "base = dict(swappiness=10)",
            "group_data/web.py: base: is not of this tier; write it in group_data/base.py",
        ),
        (
            "web",
            "sites = []",
            "group_data/web.py: sites: is not of this tier; write it in group_data/all.py",
        ),
        ("prod", "webb = dict()", "group_data/prod.py: webb: unknown; did you mean web?"),
        ("prod", "web = 3", "web: 3 is not a dict; write e.g. web = dict(port=8080)"),
        (
            "webs",
            "port = 1",
            "group_data/webs.py: is no tier; known are all, balancer, base, cache, db, media, prod, web",
        ),
        (
            "web",
            "workers = 50",
            "web.workers: 50 workers of 80 MiB do not fit the 824 MiB that web1 has for them; write at most 10",
        ),
        (
            "cache",
            "memory_mb = 900",
            "cache.memory_mb: 900 MiB of items and 48 MiB of overhead do not fit the 312 MiB that"
            " cache1 has for memcached; write at most 264",
        ),
        (
            "db",
            "shared_buffers_mb = 1800",
            "db.shared_buffers_mb: shared_buffers_mb = 1800 leaves too little of the 1848 MiB that"
            " db1 has for PostgreSQL; write at most 1108",
        ),
        (
            "db",
            "max_connections = 30",
            "db.max_connections: 2 web hosts with 20 workers in all need 40 connections (20 of them"
            " reserved), and PostgreSQL accepts 30; write db.max_connections = 60, or a smaller web.workers_limit",
        ),
        (
            "all",
            SITES.replace("domains=", 'replica_alias="replica", domains=')
            + "    db = dict(max_connections=50)",
            "db.max_connections: 2 web hosts with 20 workers in all need 60 connections (20 of them"
            " reserved, two for each worker of a site with replica_alias), and PostgreSQL accepts 50;"
            " write db.max_connections = 90, or a smaller web.workers_limit",
        ),
        (
            "all",
            SITES.replace("domains=", 'file_extensions=["ico"], domains='),
            "sites[0].document_root: file_extensions says which files are served, and nothing says"
            ' from where; write the directory of your project that holds them, e.g. "public"',
        ),
        (
            "all",
            SITES.replace("domains=", 'file_extensions=["ico"], document_root="public", domains='),
            'sites[0].document_root: "public" is not a directory in blog; write one that'
            " holds files for visitors only",
        ),
        (
            "all",
            SITES.replace("domains=", 'file_extensions=["ico"], document_root="..", domains='),
            'sites[0].document_root: ".." is not a directory in blog; write one that'
            " holds files for visitors only",
        ),
        (
            "all",
            SITES.replace("domains=", 'file_extensions=["ico"], document_root=".", domains='),
            'sites[0].document_root: "." holds code of the project; write one'
            " that holds files for visitors only",
        ),
        (
            "all",
            SITES.replace("domains=", 'static_url="/-/", domains='),
            'sites[0].static_url: "/-/" leads to no file of a site; write e.g. "/files/"',
        ),
        (
            "all",
            SITES.replace("domains=", 'media_url="/up/../", domains='),
            'sites[0].media_url: "/up/../" leads to no file of a site; write e.g. "/files/"',
        ),
        (
            "all",
            SITES.replace("domains=", 'media_url="/static/", domains='),
            'sites[0].media_url: "/static/" is static_url as well; write another, e.g. "/uploads/"',
        ),
        (
            "all",
            SITES.replace("domains=", 'replica_alias="default", domains='),
            'sites[0].replica_alias: "default" is not a name for one more database of the site;'
            ' write e.g. "replica"',
        ),
        (
            "balancer",
            "certificate = 'site.pem'",
            "balancer.certificate: site.pem is not a file; write where the PEM file with chain and key lies",
        ),
        (
            "all",
            SITES.replace('name="blog"', 'name="postgres"'),
            'sites[0].name: "postgres" belongs to PostgreSQL, and the site\'s account and database are'
            ' called as the site is; choose another, e.g. "postgres-site"',
        ),
        (
            "all",
            SITES.replace('name="blog"', 'name="shadow"'),
            'sites[0].name: "shadow" belongs to Debian, and the site\'s account and database are'
            ' called as the site is; choose another, e.g. "shadow-site"',
        ),
        (
            "all",
            SITES.replace('name="blog"', 'name="My Shop"'),
            'sites[0].name: "My Shop" is not a name for a site; write 1 to 24 small letters, digits and'
            ' hyphens, a letter first, e.g. "my-shop"',
        ),
        (
            "balancer",
            "hsts_s = 3600",
            "balancer.hsts_s: browsers that were told so let nobody past a self-signed certificate"
            " (3600); write where yours is as balancer.certificate, or 0",
        ),
        (
            "balancer",
            "hsts_s = 3600\nhttps = False",
            "balancer.hsts_s: browsers take it by https only (3600, with https=False); write 0",
        ),
        (
            "balancer",
            "trusted_proxies = ['10.0.0.300']",
            'balancer.trusted_proxies: "10.0.0.300" is not an address or a network; write e.g. "203.0.113.5"',
        ),
        (
            "balancer",
            "certificate = 'blog/manage.py'",
            "balancer.certificate: blog/manage.py lies in the source of blog, which goes to every web host; move it out",
        ),
        ("web", "port = ", "group_data/web.py, line 1: SyntaxError: invalid syntax"),
        (
            "base",
            "outgoing = ['tcp 443', 'https']",
            'base.outgoing: "https" is not understood; write protocol and port, e.g. "tcp 443", and an'
            ' address if you like, e.g. "tcp 25 to 203.0.113.9"',
        ),
        (
            "base",
            "outgoing = ['udp 70000']",
            'base.outgoing: "udp 70000": 70000 is not a port; write 1 to 65535',
        ),
        (
            "base",
            "outgoing = ['tcp 25 to mail.example.com']",
            'base.outgoing: "tcp 25 to mail.example.com": "mail.example.com" is not an address or a'
            ' network; write e.g. "203.0.113.9"',
        ),
        (
            "base",
            "incoming = ['tcp 25 to 203.0.113.9']",
            'base.incoming: "tcp 25 to 203.0.113.9" is not understood; write protocol and port, e.g.'
            ' "tcp 9100", and an address if you like, e.g. "tcp 25 from 203.0.113.9"',
        ),
        (
            "base",
            "incoming = ['tcp 11211 from 10.9.0.7', 'tcp 11211']",
            'base.incoming: "tcp 11211" lets everybody in where web hosts come for cached values; write'
            ' from whom, e.g. "tcp 11211 from 203.0.113.9"',
        ),
        (
            "base",
            "outgoing = 'tcp 443'",
            "base.outgoing: 'tcp 443' is not a list; write [\"tcp 443\"]",
        ),
    ],
)
def test_setting_is_refused(home: Home, group: str, text: str, message: str) -> None:
    """A wrong setting names its key, the value seen, and what to write."""
    home.group(group, text)
    lines = home.refusal()
    # Both web hosts are too small, or both db hosts: a line each.
    lines = [line for line in lines[1:] if "web2" not in line and "db2" not in line]
    assert lines == [message]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ('source="blog"', 'source="blgo"'),
            "sites[0].source: blgo is not a directory; write where your project lies",
        ),
        (
            ('source="blog"', 'source=""'),
            'sites[0].source: is empty; write where your project lies, e.g. "/home/you/shop"',
        ),
        (
            ("domains=", "build=['npm run \"x'], domains="),
            "sites[0].build: 'npm run \"x' is no command (No closing quotation); write words as for a"
            " shell",
        ),
        (
            ("domains=", "build=[' '], domains="),
            'sites[0].build: holds an empty command; write e.g. "manage.py compilemessages"',
        ),
        (
            ("domains=", "requirements='', domains="),
            "sites[0].requirements: is empty; write the file that pip should read,"
            ' e.g. "requirements.txt"',
        ),
        (
            ('domains=["www.example.com"]', "domains=[]"),
            "sites[0].domains: is empty; write at least one",
        ),
        (
            ('"www.example.com"', '"http://www.example.com"'),
            'sites[0].domains: "http://www.example.com" is not a host name; write e.g. "www.example.com"',
        ),
        (
            ('            settings="blog.settings",\n', ""),
            "sites[0].settings: missing; The site's settings module, e.g. `mysite.settings`.",
        ),
        (
            ('"blog.settings"', '"blog/settings.py"'),
            'sites[0].settings: "blog/settings.py" is not a Python module; write e.g. "mysite.settings"',
        ),
        (
            ("domains=", "requirements='reqs.txt', domains="),
            "sites[0].requirements: no reqs.txt in blog; write the name of the file that pip should read",
        ),
        (
            ("domains=", "project='../..', domains="),
            'sites[0].project: "../.." leads out of blog; write a folder in it',
        ),
    ],
)
def test_site_is_refused(home: Home, change: tuple[str, str], message: str) -> None:
    """A wrong site names its key and what to write."""
    assert change[0] in SITES
    home.group("all", SITES.replace(*change, 1))
    lines = [line.replace(str(home.path.resolve()) + "/", "") for line in home.refusal()]
    assert lines == [ONE, message]


def test_requirement_that_needs_a_program_is_refused(home: Home) -> None:
    """A line that pip fetches by git, where no web host gets git: what to write (addons-server#2300)."""
    (home.path / "blog" / "requirements.txt").write_text(
        "Django==5.2 \\\n    --hash=sha256:00\n# git+https://a.test/no.git\n-r more/all.txt\n"
        "win @ git+https://a.test/win.git ; sys_platform == 'win32'\nold @ hg+https://a.test/old\n"
    )
    (home.path / "blog" / "more").mkdir()
    (home.path / "blog" / "more" / "all.txt").write_text(
        "-r ../requirements.txt\n-e git+ssh://git:secret@a.test/x.git@v1#egg=x # ours\n"
    )
    home.group("all", SITES.replace("domains=", 'packages=["gdal-bin"], domains='))
    every = 'write packages=["gdal-bin", "mercurial", "git"]'
    assert home.refusal() == [
        "prod.py: 2 errors, no host was touched",
        f"sites[0].packages: more/all.txt, line 2: pip needs git on every web host for that; {every}",
        "sites[0].packages: requirements.txt, line 6: pip needs mercurial on every web host for that;"
        f" {every}",
    ]
    home.group("all", SITES.replace("domains=", 'packages=["git", "mercurial"], domains='))
    assert home.load().sites


def test_manage_py_is_found_for_the_user(home: Home) -> None:
    """A project in a sub-folder: the message names the folder (heroku-buildpack-python#637)."""
    home.project("blog", at="src")
    (home.path / "blog" / "manage.py").unlink()
    assert home.refusal() == [ONE, 'sites[0].project: no manage.py in blog; write project = "src"']
    home.group("all", SITES.replace("domains=", 'project="src", domains='))
    assert home.load().sites[0].settings.project == "src"


def test_too_many_standbys_are_refused(home: Home) -> None:
    """More standbys than the primary has senders for: the message says what to write."""
    more = '    ("db3", {"address": "10.0.0.23", "memory_mb": 2048}),\n    ]'
    home.inventory(
        HOSTS.replace('"10.0.0.22", "memory_mb": 2048}),\n    ]', f'"10.0.0.22"}}),\n{more}')
    )
    home.group("db", "max_standbys = 1")
    assert home.refusal() == [
        ONE,
        "db.max_standbys: the inventory has 2 standbys, and the primary takes 1; write 2",
    ]


def test_missing_tiers_are_named(home: Home) -> None:
    """A tier that another needs is missing: the message says which line to write."""
    home.inventory('web = [("web1", {"address": "10.0.0.11"})]')
    assert home.refusal() == [
        "prod.py: 1 error, no host was touched",
        'db: no db host, and the site keeps its data there; write e.g. db = [("db1", {"address": "10.0.0.21"})]',
    ]
    home.inventory(
        """
        web = [("web1", {"address": "10.0.0.11"}), ("web2", {"address": "10.0.0.12"})]
        db = [("db1", {"address": "10.0.0.21"})]
        storage = [("storage1", {"address": "10.0.0.51"})]
        """
    )
    assert home.refusal() == [
        "prod.py: 2 errors, no host was touched",
        'media: no media host, and each of several web hosts would keep uploads of its own; write e.g. media = [("media1", {"address": "10.0.0.41"})]',
        'storage: nobody serves what lies there; write e.g. media = [("media1", {"address": "10.0.0.41"})]',
    ]


def test_storage_host_is_an_nfs_server(home: Home) -> None:
    """A storage host and a share over sshfs contradict each other; two storage hosts are refused."""
    storage = '("storage1", {"address": "10.0.0.51"})'
    home.inventory(HOSTS, f"storage = [{storage}]")
    assert home.load().media_home.name == "storage1"
    home.group("media", 'share = "sshfs"')
    assert home.refusal() == [
        ONE,
        'media.share: "sshfs" is for MEDIA_ROOT on a media host, and a storage host is an NFS server;'
        ' write "nfs", or delete the group storage',
    ]
    home.inventory(HOSTS, f'storage = [{storage}, ("storage2", {{"address": "10.0.0.52"}})]')
    assert "storage: more than one storage host is not supported yet; write one" in home.refusal()


@pytest.mark.parametrize(
    ("group", "text", "message"),
    [
        (
            "balancer",
            "https_port = 80",
            "balancer.https_port: 80 is the port of balancer.http_port on lb1 too; write another",
        ),
        (
            "balancer",
            "https_port = 22",
            "balancer.https_port: 22 is the port of the SSH server on lb1 too; write another",
        ),
    ],
)
def test_port_that_is_given_twice_is_refused(
    home: Home, group: str, text: str, message: str
) -> None:
    """Two programs of one host cannot listen on the same port, SSH included."""
    home.group(group, text)
    assert home.refusal() == [ONE, message]


def test_port_is_given_twice_only_on_a_shared_host(home: Home) -> None:
    """Tiers on hosts of their own may use the same port; on one host they may not."""
    home.group("media", "port = 8080")
    assert home.load().settings.media.port == 8080
    media = '[("media1", {"address": "10.0.0.41", "memory_mb": 512})]'
    shared = '[("web1", {"address": "10.0.0.11", "memory_mb": 1024})]'
    assert media in HOSTS
    home.inventory(HOSTS.replace(media, shared))
    assert home.refusal() == [
        ONE,
        "media.port: 8080 is the port of web.port on web1 too; write another",
    ]


def test_public_address_in_clear_text_is_refused(home: Home) -> None:
    """What travels in clear text does so on private networks, unless the user says that it may."""
    public = HOSTS.replace("10.0.0.31", "5.9.0.31").replace("10.0.0.41", "5.9.0.41")
    home.inventory(public.replace("10.0.0.2", "5.9.0.2"))  # PostgreSQL speaks TLS.
    advice = (
        " write one of a private network, or base.allow_public_clear_text = True if nobody else has"
        " part in this one"
    )
    assert home.refusal() == [
        "prod.py: 2 errors, no host was touched",
        f"cache[0].address: 5.9.0.31 is a public address, where others could read cached values;{advice}",
        "media[0].address: 5.9.0.41 is a public address, where others could read media and static"
        f" files and uploads over nfs;{advice}",
    ]
    home.group("base", "allow_public_clear_text = True")
    assert home.load().tier("cache")[0].address == "5.9.0.31"


def test_no_site_is_named(home: Home) -> None:
    """Without a site the message shows a whole one."""
    home.group("all", "")
    assert home.refusal() == [
        ONE,
        'sites: no site; write in group_data/all.py: sites = [dict(name="mysite", source="mysite",'
        ' settings="mysite.settings", domains=["www.example.com"])]',
    ]


def test_many_mistakes_come_at_once_and_no_connection_is_opened(home: Home) -> None:
    """pyinfra itself ends with status 2 and the whole list, before it connects to anything."""
    home.inventory(HOSTS.replace('"10.0.0.11"', '"10.0.0.999"').replace('"db2"', '"DB 2"'))
    home.group("web", "wokers = 5")
    home.group("all", SITES.replace('"www.example.com"', '"a b"'))
    done = pyinfra(home.path / "prod.py", "deploy.py", "-y")
    assert done.returncode == 2
    said = (done.stdout + done.stderr).replace(f"{home.path}/", "")
    assert (
        "prod.py: 4 errors, no host was touched\n"
        '  db[1]: "DB 2" is not a host name; write small letters, digits, hyphens and dots\n'
        '  sites[0].domains: "a b" is not a host name; write e.g. "www.example.com"\n'
        "  web.wokers: unknown; did you mean workers?\n"
        '  web[0].address: "10.0.0.999" is not an IPv4 address; write e.g. "10.0.3.30"\n' in said
    )
    assert "Connecting" not in said


def test_unchecked_inventory_is_refused(home: Home) -> None:
    """deploy.py refuses an inventory that does not check itself."""
    text = (home.path / "prod.py").read_text(encoding="utf-8").replace("cluster(__file__)", "")
    (home.path / "prod.py").write_text(text, encoding="utf-8")
    with pytest.raises(Exception, match="end it with"):
        home.load()


def test_later_group_data_wins(home: Home) -> None:
    """The inventory's own file is the last word, after the tier's, after all.py."""
    home.group("all", SITES + "\n    web = dict(port=8001, timeout_s=11)")
    home.group("web", "port = 8002")
    home.group("prod", "web = dict(port=8003)")
    web = home.load().settings.web
    assert (web.port, web.timeout_s) == (8003, 11)


MEDIA_TOO = 'cache = [("media1", {"address": "10.0.0.41", "memory_mb": 600})]'
CLASH = "media[0].memory_mb: media1 has 512 here and 600 in cache[0]; write the same in both"


def test_clash_between_groups_is_refused(home: Home) -> None:
    """A host in two groups must say the same in both, in whatever order they stand (pyinfra#1756)."""
    home.inventory(HOSTS, MEDIA_TOO)
    assert home.refusal() == [ONE, CLASH]
    home.inventory(MEDIA_TOO, _without("cache"))
    assert home.refusal() == [ONE, CLASH]


def test_clash_between_files_of_tiers_is_refused(home: Home) -> None:
    """Files of two tiers that give one host two SSH users: neither wins by chance (pyinfra#1756)."""
    shared = 'cache = [("media1", {"address": "10.0.0.41"})]'
    home.group("cache", "ssh_user = 'ann'")
    home.group("media", "ssh_user = 'ben'")
    clash = (
        "group_data/media.py: ssh_user: media1 has 'ben' by this and 'ann' by group_data/cache.py;"
        ' write "ssh_user" in its line, cache[0]'
    )
    home.inventory(HOSTS, shared)
    assert home.refusal() == [ONE, clash]
    home.inventory(shared, _without("cache"))
    assert home.refusal() == [ONE, clash]
    home.inventory(HOSTS, shared.replace("}", ', "ssh_user": "cia"}'))
    assert home.load().host("media1").tiers == ("cache", "media")
    home.inventory(HOSTS, shared)
    home.group("prod", "ssh_user = 'dan'")
    assert home.load().host("media1").tiers == ("cache", "media")


def test_clash_is_refused_under_a_limit_too(home: Home) -> None:
    """A run that is limited to another host sees the same clash (pyinfra#1756)."""
    home.inventory(HOSTS, MEDIA_TOO)
    done = pyinfra(home.path / "prod.py", "deploy.py", "-y", "--limit", "web1")
    assert done.returncode == 2
    assert f"  {CLASH}\n" in done.stderr
    assert "Connecting" not in done.stdout + done.stderr


def _without(group: str) -> str:
    lines = dedent(HOSTS).splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(group))


def test_key_for_everybody_is_refused(home: Home) -> None:
    """A certificate file holds its key: everybody may not read it."""
    file = home.path / "site.pem"
    file.write_text("BEGIN CERTIFICATE\nPRIVATE KEY\n", encoding="utf-8")
    file.chmod(0o644)
    home.group("balancer", "certificate = 'site.pem'")
    assert home.refusal() == [
        ONE,
        "balancer.certificate: site.pem holds a private key and can be read by everybody;"
        " type: chmod 600 site.pem",
    ]
    file.chmod(0o640)
    assert home.load().settings.balancer.certificate == "site.pem"


HAVE = importlib.metadata.version("tierstack")


@pytest.mark.parametrize(
    ("requires", "get"),
    [
        (">=99.1", "git pull"),
        ("==98.*,>=99", "git pull"),
        ("<0.0.1", "git checkout TAG (one that fits)"),
        (f"!={HAVE}", "git checkout TAG (one that fits)"),
    ],
)
def test_other_version_is_refused(home: Home, requires: str, get: str) -> None:
    """An inventory for another version is refused with both versions, whatever else is wrong in it."""
    home.inventory("web = 42")
    _require(home, requires)
    asked = ",".join(sorted(requires.split(",")))
    assert home.refusal() == [
        ONE,
        f"requires: needs tierstack {asked}, and this is {HAVE};"
        f" type: cd {CHECKOUT} && {get} && pip install -e .",
    ]


def test_unreadable_requirement_is_refused(home: Home) -> None:
    """A version alone says neither "at least" nor "at most"."""
    _require(home, "0.1")
    assert home.refusal() == [
        ONE,
        'requires: "0.1" does not say which versions; write e.g. ">=0.1"',
    ]


def test_this_version_is_accepted(home: Home) -> None:
    """An inventory may state that it is for this version."""
    _require(home, f">={HAVE},<99")
    assert home.load().name == "prod"


def _require(home: Home, versions: str) -> None:
    file = home.path / "prod.py"
    text = file.read_text(encoding="utf-8")
    text = text.replace("cluster(__file__)", f'cluster(__file__, requires="{versions}")')
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--limit", "web9"],
            "--limit and --exclude leave no host; name hosts or tiers of the inventory:"
            " lb1, web1, web2, db1, db2, cache1, media1",
        ),
        (
            ["--no-wait"],
            "--no-wait: a tier is only changed once the one before it answers, on all of its hosts;"
            " leave the option out",
        ),
        (
            ["--serial"],
            "--serial: a tier is only changed once the one before it answers, on all of its hosts;"
            " leave the option out",
        ),
    ],
    ids=["limit", "no-wait", "serial"],
)
def test_options_that_hide_a_failure_are_refused(home: Home, options: list[str], said: str) -> None:
    """What pyinfra would end with status 0, though little or nothing was done, is not begun."""
    done = pyinfra(home.path / "prod.py", "deploy.py", "-y", *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Connecting to hosts" not in done.stderr


def test_names_of_debian_postgresql_and_the_cluster_are_no_names_for_a_site() -> None:
    """A site may not have the account, the group, the role or the database of somebody else."""
    debian = ("adm", "disk", "sudo", "shadow", "users", "staff", "www-data", "systemd-network")
    others = (
        "haproxy",
        "memcache",
        "sshd",
        "none",
        "public",
        "pg-monitor",
        "template1",
        "tierstack-x",
    )
    assert all(owner_of_site_name(name) for name in (*debian, *others))
    assert not any(
        owner_of_site_name(name) for name in ("shop", "blog", "user", "pgadmin", "example")
    )


def test_run_that_nobody_could_answer_is_refused(home: Home) -> None:
    """Without -y pyinfra asks, and without a terminal there is nobody: known before the hosts are."""
    done = pyinfra(home.path / "prod.py", "deploy.py")
    assert done.returncode == 1
    assert (
        "pyinfra asks before it changes anything, and nobody is there to answer; add -y, or --dry to see"
        " what would be done"
    ) in done.stderr
    assert "Traceback" not in done.stderr
    assert "Connecting to hosts" not in done.stderr


@pytest.mark.parametrize("name", ["prdo.py", "."])
def test_path_of_no_inventory_is_refused(home: Home, name: str) -> None:
    """To pyinfra it is a run of no hosts, all of which went well."""
    path = home.path / name
    done = pyinfra(path, "deploy.py", "-y")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{path}: no such inventory; write the path of a file"
    assert "Traceback" not in done.stderr
