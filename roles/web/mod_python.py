"""
Apache prefork and mod_python.

Source: chapter, "How to use Django with Apache and mod_python" and "Performance tuning".
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from roles import media
from roles.web.health import HEALTH_INTERVAL_S
from roles.web.release import PROGRAMS, config_path, release
from roles.web.settings import upload_bytes
from tierstack.hosts import facts
from tierstack.model import Cluster, Host, Site
from tierstack.model.release import Release
from tierstack.model.sizing import web_workers
from tierstack.operations.config import Absent, Directory, Entry, File, Link, Unit, template
from tierstack.operations.release import rolled_config
from tierstack.secrets import Secrets

#: Modules that are loaded, and those that Debian's package enables and nothing here needs: fewer
#: modules, fewer ways to be answered by something else than Django.
MODULES = ("alias", "authz_core", "mpm_prefork", "python", "reqtimeout")
_NEVER_NEEDED = (
    "access_compat.load", "alias.conf", "auth_basic.load", "authn_core.load", "authn_file.load",
    "authz_host.load", "authz_user.load", "autoindex.conf", "autoindex.load", "deflate.conf",
    "deflate.load", "dir.conf", "dir.load", "env.load", "filter.load", "mime.conf",
    "mpm_event.conf", "mpm_event.load", "mpm_prefork.conf", "negotiation.conf", "negotiation.load",
    "reqtimeout.conf", "setenvif.conf", "setenvif.load", "status.conf", "status.load",
)  # fmt: skip
_NOT_NEEDED_CONF = (
    "charset", "localized-error-pages", "other-vhosts-access-log", "security", "serve-cgi-bin",
)  # fmt: skip

#: What Apache needs to serve files: all, where no media host does, or those of the site's root.
_FOR_FILES = ("headers", "mime")

#: Time for the last balancer to see the 404, should one of its questions get lost, in seconds.
DRAIN_S = 2 * HEALTH_INTERVAL_S + 0.5

#: Longest until every worker has loaded the site, in seconds.
WARM_S = 120

#: Releases that stay on a web host, the serving one included.
KEEP = 5


def serve(cluster: Cluster, host: Host, secrets: Secrets) -> None:
    """
    Have Apache serve the release; a node that changes is drained, restarted and looked at.

    Those that have served nothing yet come first, all at once: no visitor is sent to them.
    """
    new = _is_new(host)
    command = _serve_command(cluster, new=new)
    what: dict[str, Any] = {
        "stamp": "web",
        "entries": _entries(cluster, host, secrets),
        "check": "apachectl configtest",
        "drains": True,
        "units": [Unit("apache2.service", reload=command, restart=command, start=command)],
    }
    if new:
        rolled_config(
            name="Apache serves the release on new web nodes",
            state="serves nothing yet",
            **what,
        )
    else:
        rolled_config(
            name="Apache serves the release",
            state="goes on with what it served before",
            **what,
            _serial=True,
        )


def _serve_command(cluster: Cluster, *, new: bool) -> str:
    """
    Return the command by which a node serves what is configured, out of rotation meanwhile.

    Where the next node that leaves may be the only other one, balancers must have this one back first.
    """
    joins = new or len(cluster.tier("web")) == 2
    return f"{PROGRAMS}/web-node {'join' if joins else 'serve'}"


def _is_new(host: Host) -> bool:
    """Return whether Apache has never had a site of ours on a host, neither by our notes nor by its own."""
    known = facts(host.name)
    return "web" not in known["stamps"] and not known["database_hosts"]


def _entries(cluster: Cluster, host: Host, secrets: Secrets) -> Sequence[Entry]:
    web = cluster.settings.web
    apache = "/etc/apache2"
    serves_files = not cluster.tier("media") or any(
        site.settings.file_extensions for site in cluster.sites
    )
    modules = [*MODULES, *(_FOR_FILES if serves_files else ())]
    not_needed = [*_NEVER_NEEDED, *(f"{name}.load" for name in _FOR_FILES if name not in modules)]
    return [
        Directory("/var/log/tierstack", mode="750", group="adm"),
        File("/etc/tierstack/web-node.json", _node_settings(cluster, host), needs="restart"),
        # apache2.conf includes it, and a second Listen cannot take Debian's back.
        File(
            f"{apache}/ports.conf",
            template("web/etc/apache2/ports.conf.j2", address=host.address, port=web.port),
            needs="restart",
        ),
        *(Absent(f"{apache}/mods-enabled/{name}", needs="restart") for name in not_needed),
        *(
            Absent(f"{apache}/conf-enabled/{name}.conf", needs="restart")
            for name in _NOT_NEEDED_CONF
        ),
        Absent(f"{apache}/sites-enabled/000-default.conf", needs="restart"),
        *(
            Link(
                f"{apache}/mods-enabled/{name}.load",
                f"../mods-available/{name}.load",
                needs="restart",
            )
            for name in modules
        ),
        File(
            f"{apache}/conf-available/tierstack.conf",
            template(
                "web/etc/apache2/conf-available/tierstack.conf.j2",
                address=host.address,
                account=cluster.sites[0].account,
                workers=web_workers(cluster, host),
                timeout_s=web.timeout_s,
                upload_bytes=upload_bytes(cluster),
            ),
            needs="restart",
        ),
        Link(
            f"{apache}/conf-enabled/tierstack.conf",
            "../conf-available/tierstack.conf",
            needs="restart",
        ),
        *(e for site in cluster.sites for e in _site_entries(cluster, host, site, secrets)),
        # With the new ones in one change, so that what fails takes all of it back.
        *(
            Absent(f"{apache}/sites-{state}/{site.name}.conf", needs="restart", once=True)
            for site in cluster.leaving
            for state in ("enabled", "available")
        ),
        File(
            "/etc/tierstack/apache2-envvars",
            template("web/etc/tierstack/apache2-envvars.j2"),
            needs="restart",
        ),
        File(
            "/etc/systemd/system/apache2.service.d/tierstack.conf",
            template(
                "web/etc/systemd/system/apache2.service.d/tierstack.conf.j2",
                start_s=WARM_S + 30,
                stop_s=web.timeout_s + 30,
            ),
            needs="restart",
        ),
    ]


def _site_entries(cluster: Cluster, host: Host, site: Site, secrets: Secrets) -> Sequence[Entry]:
    this = release(cluster, site)
    config = config_path(cluster, host, site, secrets)
    available = f"/etc/apache2/sites-available/{site.name}.conf"
    return [
        File(
            available,
            template(
                "web/etc/apache2/sites-available/site.conf.j2",
                name=site.name,
                address=host.address,
                port=cluster.settings.web.port,
                domains=site.settings.domains,
                config=config,
                files=None if cluster.tier("media") else media.files(cluster, site),
                root_files=root_files(site, this),
                python_path=python_path(
                    [config, this.project(site), this.source], this.site_packages
                ),
            ),
            needs="restart",
        ),
        Link(
            f"/etc/apache2/sites-enabled/{site.name}.conf",
            f"../sites-available/{site.name}.conf",
            needs="restart",
        ),
        # For people, and for tierstack-manage.
        Link(f"{site.home}/current", this.path, needs="restart"),
        Link(f"{site.config}/current", config, needs="restart"),
    ]


def root_files(site: Site, this: Release) -> dict[str, object] | None:
    """Return which URLs are files of the site's root, and where these lie; None where none are."""
    settings = site.settings
    if not settings.file_extensions or settings.document_root is None:
        return None
    elsewhere = "|".join(
        re.escape(url.removeprefix("/")) for url in (settings.media_url, settings.static_url)
    )
    # No part of the path is empty or begins with a dot: nothing hidden, and no way out.
    path = rf"(?:[^/.][^/]*/)*[^/.][^/]*\.(?i:{'|'.join(settings.file_extensions)})"
    return {
        "url": f"^/(?!{elsewhere})({path})$",
        "directory": os.path.normpath(f"{this.source}/{settings.document_root}"),
        "max_age_s": media.STATIC_MAX_AGE_S,
    }


def python_path(own: Sequence[str], site_packages: str) -> str:
    """
    Return the expression of Apache's PythonPath, quoted for Apache.

    Args:
        own: directories that come first, as from PYTHONPATH.
        site_packages: the venv's, which come between the standard library and Debian's packages.
    """
    expression = (
        f"{list(dict.fromkeys(own))!r}"
        " + [p for p in sys.path if 'dist-packages' not in p]"
        f" + [{site_packages!r}]"
        " + [p for p in sys.path if 'dist-packages' in p]"
    )
    return expression.replace("\\", "\\\\").replace('"', '\\"')


def _node_settings(cluster: Cluster, host: Host) -> bytes:
    """Return what `web-node` is told: a file of its own, so that a failed change takes it back."""
    values = {
        "address": host.address,
        "port": cluster.settings.web.port,
        "workers": web_workers(cluster, host),
        "alone": len(cluster.tier("web")) == 1,
        "account": cluster.sites[0].account,
        "drain_s": DRAIN_S,
        "warm_s": WARM_S,
        "timeout_s": cluster.settings.web.timeout_s,
        "keep": KEEP,
        "sites": [
            {
                "name": site.name,
                "domain": site.settings.domains[0].replace("*", "www"),
                "pages": site.settings.pages,
                "kept": [f"{site.home}/releases", site.config],
            }
            for site in cluster.sites
        ],
    }
    return (json.dumps(values, indent=4) + "\n").encode()
