"""Every setting, its default, its unit and one line of meaning.

Defaults live here and nowhere else; `docs/settings.md` is generated from these classes.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Port = Annotated[int, Field(ge=1, le=65535)]

_DOMAIN = re.compile(
    r"^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
)
_DEBIAN_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]+$")
#: Less than what useradd(8) and sysusers.d(5) take, so that PostgreSQL, systemd and paths take it, too.
_SITE_NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
_MODULE = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")
#: Names of environment variables.
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_WAY = re.compile(r"(tcp|udp) (\d+)( (to|from) ([^\s%]+))?", re.ASCII)


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SiteSettings(_Settings):
    """One Django site. `sites` in `group_data/all.py` is a list of these; today, of one."""

    name: str = Field(
        description="Short name, e.g. `shop`: account, database and directories are called so. 1 to 24"
        " small letters, digits and hyphens, a letter first; names that Debian or PostgreSQL has are"
        " refused."
    )
    uid: Annotated[int, Field(ge=5800, le=5999)] | None = Field(
        default=None,
        description="Number of its account on every host; by default 5800 for the first site of the"
        " list. Needed where the number of a site that has left is not free.",
    )
    source: str = Field(
        description="Directory of the project, absolute or relative to the directory that holds `group_data/`."
    )
    project: str = Field(default=".", description="Where `manage.py` lies, relative to `source`.")
    include: list[str] = Field(
        default_factory=list,
        description="Patterns of files that a release takes along though git ignores them or their"
        " names are those of secrets, relative to `source`: `locale/*/LC_MESSAGES/*.mo`, or"
        " `static/dist/**` for all that lies there.",
    )
    settings: str = Field(description="The site's settings module, e.g. `mysite.settings`.")
    requirements: str = Field(
        default="requirements.txt",
        description="Requirements file for pip, relative to `source`. While its text stays the same,"
        " releases get the packages that were installed for it first, without asking an index; change"
        " a comment in it for newer ones. A file that names files, addresses or variables is"
        " installed anew for each release.",
    )
    domains: Annotated[list[str], Field(min_length=1)] = Field(
        description="Host names under which visitors reach the site; the first one is canonical."
    )
    environment: dict[str, str | None] = Field(
        default_factory=dict,
        description="Environment variables of the site, set before its settings are imported. Offered"
        " besides are `DATABASE_URL`, `SECRET_KEY` (also as `DJANGO_SECRET_KEY`), `DEBUG` (`0`) and"
        " `ALLOWED_HOSTS` (the domains, with commas between); a value here comes first, and `None`"
        " leaves one out. What is secret stands in the secrets file: `[sites.NAME.environment]`.",
    )
    packages: list[str] = Field(
        default_factory=list, description="Debian packages that the site needs on web hosts."
    )
    build: list[str] = Field(
        default_factory=list,
        description='Commands that make a release whole, e.g. `["npm ci", "npm run build", "manage.py'
        ' compilemessages"]`: run on web hosts where `manage.py` lies, without a shell, by the account'
        " `tierstack-build`, which reads what the site's group may read, before static files are"
        " collected. For what needs these (django-compressor) write"
        ' `["manage.py collectstatic --noinput", "manage.py compress"]`.',
    )
    build_s: Annotated[int, Field(ge=1)] = Field(
        default=1800,
        description="Longest that pip, each command of `build` and `collectstatic` may take on a web"
        " host, in seconds: what takes longer is ended, and the run with it. A look at the site's"
        " settings gets five minutes of it at most.",
    )
    extensions: list[str] = Field(
        default_factory=list, description="PostgreSQL extensions to create in its database."
    )
    media_url: Annotated[str, Field(pattern=r"^/([\w.-]+/)+$")] = Field(
        default="/media/", description="URL path of uploaded files, from `/` to `/`."
    )
    static_url: Annotated[str, Field(pattern=r"^/([\w.-]+/)+$")] = Field(
        default="/static/", description="URL path of static files, from `/` to `/`."
    )
    hashed_static: bool = Field(
        default=True,
        description="Give static files hashed names (`ManifestStaticFilesStorage`), cached by browsers for a year.",
    )
    document_root: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)*$")] | None = Field(
        default=None,
        description="Directory of files for the root of the site, such as `favicon.ico`, relative to"
        " `source`; Apache serves those with one of `file_extensions`.",
    )
    file_extensions: list[Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]] = Field(
        default_factory=list,
        description='What ends so, e.g. `["ico", "png", "txt"]`, is looked up in `document_root`, and'
        " Django is never asked; URLs below `media_url` and `static_url` go their own way.",
    )
    local_caches: list[str] = Field(
        default_factory=list,
        description="Aliases in `CACHES` that each web host may keep for itself; others are refused"
        " where there is more than one web host.",
    )
    replica_alias: str | None = Field(
        default=None,
        description="Alias in `DATABASES` for reads that may be a moment old, e.g. `replica`: a"
        " standby, or the primary where none answers. What goes there is the site's own router's to"
        " say. With psycopg 3 it takes 3.2.6 or later.",
    )
    pages: Annotated[list[Annotated[str, Field(pattern=r"^/[^\s#]*$")]], Field(min_length=1)] = (
        Field(
            default_factory=lambda: ["/"],
            description="URL paths that must not answer 500, nor what they lead to, on a web node that has"
            " got a release: else it goes back to the one before, and the roll ends.",
        )
    )
    engine: Literal["mod_python"] = Field(
        default="mod_python", description="What runs the site on a web host."
    )

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not value:
            raise ValueError('is empty; write a short one, e.g. "shop"')
        if not _SITE_NAME.fullmatch(value):
            example = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-").lstrip("-0123456789")
            raise ValueError(
                f'"{value}" is not a name for a site; write 1 to 24 small letters, digits and hyphens,'
                f' a letter first, e.g. "{example[:24].rstrip("-") or "shop"}"'
            )
        return value

    @field_validator("source")
    @classmethod
    def _source(cls, value: str) -> str:
        if not value:
            raise ValueError('is empty; write where your project lies, e.g. "/home/you/shop"')
        return value

    @field_validator("include")
    @classmethod
    def _include(cls, value: list[str]) -> list[str]:
        for pattern in value:
            if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
                what = f'"{pattern}" leads out of the source; write e.g. "static/dist/**"'
                raise ValueError(what)
        return value

    @field_validator("requirements")
    @classmethod
    def _requirements(cls, value: str) -> str:
        if not value:
            raise ValueError(
                'is empty; write the file that pip should read, e.g. "requirements.txt"'
            )
        return value

    @field_validator("media_url", "static_url")
    @classmethod
    def _file_url(cls, value: str) -> str:
        if "/." in value or value.startswith("/-/"):
            raise ValueError(f'"{value}" leads to no file of a site; write e.g. "/files/"')
        return value

    @field_validator("domains")
    @classmethod
    def _domains(cls, value: list[str]) -> list[str]:
        for domain in value:
            if not _DOMAIN.match(domain):
                raise ValueError(f'"{domain}" is not a host name; write e.g. "www.example.com"')
        return value

    @field_validator("settings")
    @classmethod
    def _settings(cls, value: str) -> str:
        if not _MODULE.match(value):
            raise ValueError(f'"{value}" is not a Python module; write e.g. "mysite.settings"')
        return value

    @field_validator("replica_alias")
    @classmethod
    def _replica_alias(cls, value: str | None) -> str | None:
        if value is not None and (value == "default" or not value.isidentifier()):
            what = (
                f'"{value}" is not a name for one more database of the site; write e.g. "replica"'
            )
            raise ValueError(what)
        return value

    @field_validator("packages")
    @classmethod
    def _packages(cls, value: list[str]) -> list[str]:
        for package in value:
            if not _DEBIAN_PACKAGE.match(package):
                raise ValueError(f'"{package}" is not a Debian package name; write e.g. "gdal-bin"')
        return value

    @field_validator("build")
    @classmethod
    def _build(cls, value: list[str]) -> list[str]:
        for command in value:
            try:
                words = shlex.split(command)
            except ValueError as error:
                raise ValueError(
                    f"{command!r} is no command ({error}); write words as for a shell"
                ) from None
            if not words:
                raise ValueError('holds an empty command; write e.g. "manage.py compilemessages"')
        return value

    @field_validator("environment")
    @classmethod
    def _environment(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for name in value:
            if not re.fullmatch(VARIABLE, name):
                raise ValueError(f'"{name}" is not a variable name; write letters, digits and _')
        return value


@dataclass(frozen=True)
class Way:
    """One entry of `base.outgoing` or `base.incoming`; `address` is one or a network, None is anybody."""

    protocol: str
    port: int
    address: str | None

    @classmethod
    def parse(cls, text: str, word: Literal["to", "from"], example: str) -> Way:
        """
        Read e.g. "tcp 443" or "tcp 25 to 203.0.113.9".

        Args:
            text: what the user wrote.
            word: what stands before an address.
            example: a port, for the message.

        Raises:
            ValueError: it is not of that form; the text says what to write.
        """
        found = _WAY.fullmatch(text)
        if not found or found[4] not in (None, word):
            raise ValueError(
                f'"{text}" is not understood; write protocol and port, e.g. "{example}", and an'
                f' address if you like, e.g. "tcp 25 {word} 203.0.113.9"'
            )
        protocol, port, _, _, address = found.groups()
        if not 1 <= int(port) <= 65535:
            raise ValueError(f'"{text}": {port} is not a port; write 1 to 65535')
        if address:
            try:
                network = ipaddress.ip_network(address)
            except ValueError:
                what = f'"{text}": "{address}" is not an address or a network; write e.g. "203.0.113.9"'
                raise ValueError(what) from None
            address = str(network if network.num_addresses > 1 else network.network_address)
        return cls(protocol, int(port), address)


class BaseSettings(_Settings):
    """What every host gets."""

    reserve_mb: Annotated[int, Field(ge=64)] = Field(
        default=200, description="Memory left to the system on every host, in MiB."
    )
    swappiness: Annotated[int, Field(ge=0, le=100)] = Field(
        default=1, description="`vm.swappiness`: 1 swaps only to avoid running out of memory."
    )
    journal_mb: Annotated[int, Field(ge=16)] = Field(
        default=200, description="Most disk space that the journal may take, in MiB."
    )
    allow_public_clear_text: bool = Field(
        default=False,
        description="Accept public addresses for hosts that pages, cached values or uploads reach in"
        " clear text: for networks that are safe all the same.",
    )
    incoming: list[str] = Field(
        default_factory=list,
        description="What comes in to every host besides the flows, for programs that are not ours, e.g."
        ' `["tcp 9100 from 10.0.0.5", "udp 51820"]`: see [firewall.md](firewall.md).',
    )
    outgoing: list[str] | None = Field(
        default=None,
        description='What may go out of every host besides the flows, e.g. `["udp 53", "tcp 443",'
        ' "tcp 25 to 203.0.113.9"]`; by default anything. Name servers, clocks and package sources'
        " are no flows: see [firewall.md](firewall.md).",
    )

    @field_validator("outgoing")
    @classmethod
    def _outgoing(cls, value: list[str] | None) -> list[str] | None:
        for text in value or ():
            Way.parse(text, "to", "tcp 443")
        return value

    @field_validator("incoming")
    @classmethod
    def _incoming(cls, value: list[str]) -> list[str]:
        for text in value:
            Way.parse(text, "from", "tcp 9100")
        return value

    @property
    def ways_out(self) -> list[Way] | None:
        """`outgoing`, read; None means anything."""
        listed = self.outgoing
        return None if listed is None else [Way.parse(text, "to", "") for text in listed]

    @property
    def ways_in(self) -> list[Way]:
        """`incoming`, read."""
        return [Way.parse(text, "from", "") for text in self.incoming]


class WebSettings(_Settings):
    """Apache and mod_python on the `web` hosts."""

    port: Port = Field(default=8080, description="Port of Apache behind a balancer.")
    worker_mb: Annotated[int, Field(ge=16)] = Field(
        default=80, description="Resident size of one Apache worker with the site loaded, in MiB."
    )
    workers: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Apache workers on each web host; by default as many as fit its memory.",
    )
    workers_limit: Annotated[int, Field(ge=1)] = Field(
        default=20,
        description="Most workers on one host, however large: each may hold a database connection.",
    )
    timeout_s: Annotated[int, Field(ge=1)] = Field(
        default=60, description="Longest that a request may take, in seconds."
    )
    upload_mb: Annotated[int, Field(ge=1)] = Field(
        default=100,
        description="Largest request body, in MiB. A body may take its time: all of a form, or the"
        " first 16 KiB of an upload, has to arrive within 10 s, the rest by 500 bytes a second.",
    )


class DbSettings(_Settings):
    """PostgreSQL on the `db` hosts."""

    port: Port = Field(default=5432, description="Port of PostgreSQL.")
    max_connections: Annotated[int, Field(ge=20)] = Field(
        default=200,
        description="Connections that PostgreSQL accepts; fixed with headroom, since a change restarts it.",
    )
    shared_buffers_mb: Annotated[int, Field(ge=16)] | None = Field(
        default=None,
        description="PostgreSQL's own page cache, in MiB; by default a quarter of its memory share.",
    )
    max_standbys: Annotated[int, Field(ge=1)] = Field(
        default=8,
        description="Replication senders and slots; fixed with headroom, since a change restarts PostgreSQL.",
    )
    slot_keep_mb: Annotated[int, Field(ge=64)] = Field(
        default=4096,
        description="Most WAL that the primary keeps for a standby that is away, in MiB.",
    )
    migration_lock_s: Annotated[int, Field(ge=1, le=30)] = Field(
        default=2,
        description="How long a migration's statement waits for a table that somebody uses, in"
        " seconds; pages that use the table wait behind it. What is not atomic and takes its time"
        " without holding anybody up, `CREATE INDEX CONCURRENTLY`, waits for ten minutes.",
    )
    migration_s: Annotated[int, Field(ge=1)] = Field(
        default=86400,
        description="Longest that the migrations of a run may work, in seconds; then they are ended,"
        " and PostgreSQL rolls back what is atomic.",
    )
    migration_tries: Annotated[int, Field(ge=1, le=100)] = Field(
        default=10,
        description="How often a migration that got no lock is tried, with a pause between for the"
        " pages that have waited; then the run stops, and says who was in the way.",
    )


class CacheSettings(_Settings):
    """memcached on the `cache` hosts."""

    port: Port = Field(default=11211, description="Port of memcached (TCP; UDP is off).")
    memory_mb: Annotated[int, Field(ge=16)] | None = Field(
        default=None,
        description="Memory for cached items on each cache host, in MiB; by default most of its memory share.",
    )
    max_connections: Annotated[int, Field(ge=64)] = Field(
        default=2048, description="Connections that each memcached accepts."
    )


class MediaSettings(_Settings):
    """lighttpd on the `media` hosts, and how web hosts reach MEDIA_ROOT there."""

    port: Port = Field(default=8081, description="Port of lighttpd.")
    share: Literal["nfs", "sshfs"] = Field(
        default="nfs",
        description='How web hosts mount MEDIA_ROOT: `"nfs"`, or `"sshfs"` for kernels without NFS.',
    )
    sshfs_port: Port = Field(
        default=2222,
        description="Port of the SSH server that serves only MEDIA_ROOT, with `sshfs`.",
    )
    copy_port: Port = Field(
        default=8730,
        description="Port of the rsync server by which further media hosts get copies of uploads.",
    )
    max_age_s: Annotated[int, Field(ge=0)] = Field(
        default=3600, description="How long browsers may keep an uploaded file, in seconds."
    )

    @property
    def share_port(self) -> int:
        """The port that MEDIA_ROOT is mounted from; NFSv4 has one of its own."""
        return 2049 if self.share == "nfs" else self.sshfs_port


class BalancerSettings(_Settings):
    """HAProxy on the `balancer` hosts."""

    http_port: Port = Field(default=80, description="Port for http; redirects to https.")
    https_port: Port = Field(default=443, description="Port for https.")
    https: bool = Field(
        default=True, description="Serve https and redirect http to it; `False` serves http only."
    )
    http2: bool = Field(
        default=True,
        description="Offer browsers HTTP/2. With `False` all come by HTTP/1.1, and a streamed answer"
        " that breaks off is seen to be cut: HAProxy 2.6 of Debian 12 ends one without a"
        " `Content-Length` well for visitors by HTTP/2.",
    )
    hsts_s: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="How long browsers shall come to these names by https only"
        " (`Strict-Transport-Security`), in seconds, on pages, files and errors alike. They cannot"
        " be told otherwise before: begin with an hour, 3600, and write 31536000 once https works"
        " for good. A site's own `SECURE_HSTS_SECONDS` goes before it on the site's pages.",
    )
    certificate: str | None = Field(
        default=None,
        description="PEM file with certificate chain and key, relative to the directory that holds"
        " `group_data/`; by default a self-signed one is made.",
    )
    trusted_proxies: list[str] = Field(
        default_factory=list,
        description="Addresses or networks of proxies in front, whose `X-Forwarded-For` and"
        " `X-Forwarded-Proto` are believed. The site gets one address, in `REMOTE_ADDR` and"
        " `X-Forwarded-For`: the last one that is not a trusted proxy's, of at most five in a row.",
    )
    max_connections: Annotated[int, Field(ge=100)] = Field(
        default=4000, description="Visitors' connections that one balancer holds at once."
    )
    source_connections: Annotated[int, Field(ge=10)] | None = Field(
        default=None,
        description="Connections, and requests under way, that one address may have at once on a"
        " balancer (of IPv6 one /64), trusted proxies excepted; by default a tenth of what it holds,"
        " or 100 where that is no more than half. What is more is closed at once, or answered 429.",
    )
    source_rate: Annotated[int, Field(ge=1)] = Field(
        default=100,
        description="Connections a second that one address may open, on average over 10 s; an office"
        " behind one address needs one to six for each page that a browser opens anew.",
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies(cls, value: list[str]) -> list[str]:
        for proxy in value:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                what = f'"{proxy}" is not an address or a network; write e.g. "203.0.113.5"'
                raise ValueError(what) from None
        return value


class HostSettings(_Settings):
    """A host's line in the inventory: `("web1", {"address": "10.0.0.11"})`."""

    address: str | None = Field(
        default=None,
        description="IPv4 address inside the cluster; may be left out where the host's name is one.",
    )
    memory_mb: Annotated[int, Field(ge=64)] | None = Field(
        default=None,
        description="Memory to plan with, in MiB; by default what the host has, in steps of about a"
        " sixteenth, and the same again after a kernel update.",
    )


TIER_SETTINGS: dict[str, type[_Settings]] = {
    "base": BaseSettings,
    "balancer": BalancerSettings,
    "web": WebSettings,
    "db": DbSettings,
    "cache": CacheSettings,
    "media": MediaSettings,
}


class Settings(_Settings):
    """All that `group_data/` may set, and the defaults of what it does not."""

    sites: list[SiteSettings] = Field(description="The Django sites of this cluster.")
    base: BaseSettings = BaseSettings()
    balancer: BalancerSettings = BalancerSettings()
    web: WebSettings = WebSettings()
    db: DbSettings = DbSettings()
    cache: CacheSettings = CacheSettings()
    media: MediaSettings = MediaSettings()
