"""The last lines of a run: who failed, what was done, what was not, what to type."""

from __future__ import annotations

import pytest

from tierstack.model.summary import HostRun, complete, last_words, summary

AGAIN, LOOK = "pyinfra prod.py deploy.py -y", "tierstack status prod.py"
LAST = [f"How the nodes are now: {LOOK}"]


def test_good_run_takes_one_line() -> None:
    """All is done: so many hosts, so many changed."""
    hosts = [HostRun("web1", ("Packages", "Apache"), 2), HostRun("db1", ("Packages",))]
    assert complete(hosts)
    assert summary(hosts, AGAIN, LOOK) == ["All is done: 2 hosts, 1 changed."]
    assert summary(hosts[1:], AGAIN, LOOK) == ["All is done: 1 host, none changed."]


def test_failed_host_comes_first() -> None:
    """The host that failed is told first, then those left out; hosts that tell the same share a line."""
    out = {"ending": "left out", "step": "Apache", "said": "not changed, because web1 failed"}
    hosts = [
        HostRun("lb1", ("Packages",), left=("HAProxy",)),
        HostRun("web1", ("Packages", "Release"), 1, "failed", "Apache", "no such module"),
        HostRun("web2", ("Packages", "Release"), 2, **out),  # type: ignore[arg-type]
        HostRun("web3", ("Packages", "Release"), 2, **out),  # type: ignore[arg-type]
        HostRun("db1", ("Packages",)),
        HostRun("cache1", ("Packages",)),
    ]
    assert not complete(hosts)
    assert summary(hosts, AGAIN, LOOK) == [
        "The run stopped half-way: web1 failed. Host by host:",
        '  web1: failed in "Apache": no such module',
        '    done up to "Release", 1 changed',
        '  web2, web3: left out of "Apache": not changed, because web1 failed',
        '    done up to "Release", 2 changed',
        '  lb1: done up to "Packages", none changed',
        '    not begun: "HAProxy"',
        "  db1, cache1: all done, none changed",
        f"Mend what web1 said; type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]


def test_lost_hosts_are_looked_at_first() -> None:
    """A host that fell silent is named with what reaches it by hand."""
    left = ("Release", "Tables", "Apache", "Logs", "End")
    hosts = [
        HostRun("web1", ending="lost", step="Packages", left=left, login="ssh root@10.0.0.11"),
        HostRun("web2", ("Packages",), left=left[:1], ending="lost", login="ssh -p 9 10.0.0.12"),
        HostRun("db1", ending="failed", step="Packages", said="see above"),
    ]
    assert summary(hosts, AGAIN, LOOK) == [
        "The run stopped half-way: db1 failed, and the connection to web1 and web2 is lost."
        " Host by host:",
        '  db1: failed in "Packages": see above',
        "    nothing done",
        '  web1: connection lost in "Packages", which may go on there',
        "    nothing done",
        '    not begun: "Release", "Tables", "Apache", 2 more',
        "  web2: connection lost",
        '    done up to "Packages", none changed',
        '    not begun: "Release"',
        "See why web1 (ssh root@10.0.0.11) and web2 (ssh -p 9 10.0.0.12) fell silent; mend what db1"
        f" said; type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]


def test_stopped_by_hand_needs_no_mending() -> None:
    """Ctrl-C: what a host was at work on is named, and that it may go on."""
    hosts = [
        HostRun("web1", ("Packages",), 1, "under way", "Release", left=("Apache",)),
        HostRun("db1", ("Packages",)),
    ]
    assert summary(hosts, AGAIN, LOOK, "Ctrl-C") == [
        "The run stopped half-way, by Ctrl-C. Host by host:",
        '  web1: was at work on "Release", which may go on there',
        '    done up to "Packages", 1 changed',
        '    not begun: "Apache"',
        "  db1: all done, none changed",
        f"Type the same again, each run does what is missing: {AGAIN}",
        *LAST,
    ]


#: What programs say on a host as they fail, in their own words, and what a summary shows of it. Each
#: stands as a run gets it: one that is run by an agent of ours with what the agent adds.
SAID = {
    "Apache": (
        """
AH00526: Syntax error on line 1 of /etc/apache2/conf-enabled/zz.conf:
LimitRequestBody argument is not parsable.
Action 'configtest' failed.
The Apache error log may have more information.
(exit status 1 of: apachectl configtest)
tierstack: the old configuration is back in place and still serves""",
        "exit status 1 of: apachectl configtest (AH00526: Syntax error on line 1 of"
        " /etc/apache2/conf-enabled/zz.conf: LimitRequestBody argument is not parsable.); the old"
        " configuration is back in place and still serves",
    ),
    "HAProxy": (
        """
[NOTICE]   (474) : haproxy version is 2.6.12-1+deb12u4
[NOTICE]   (474) : path to executable is /usr/sbin/haproxy
[ALERT]    (474) : config : parsing [/tmp/h.cfg:35] : unknown keyword 'nonsense' in 'defaults' section
[ALERT]    (474) : config : Error(s) found in configuration file : /tmp/h.cfg
[ALERT]    (474) : config : Fatal errors found in configuration.
(exit status 1 of: haproxy -c -f /tmp/h.cfg)
tierstack: nothing was changed""",
        "exit status 1 of: haproxy -c -f /tmp/h.cfg ([ALERT]    (474) : config : parsing [/tmp/h.cfg:35]"
        " : unknown keyword 'nonsense' in 'defaults' section); nothing was changed",
    ),
    "nft": (
        """
/tmp/x.nft:1:48-48: Error: syntax error, unexpected '}', expecting newline or semicolon
table inet x { chain y { tcp dport nope accept } }
                                               ^
/tmp/x.nft:2:1-1: Error: syntax error, unexpected end of file
(exit status 1 of: nft -c -f /tmp/x.nft)
tierstack: nothing was changed""",
        "exit status 1 of: nft -c -f /tmp/x.nft (/tmp/x.nft:1:48-48: Error: syntax error, unexpected"
        " '}', expecting newline or semicolon); nothing was changed",
    ),
    "a unit, with its journal": (
        """
Job for nope.service failed because the control process exited with error code.
See "systemctl status nope.service" and "journalctl -xeu nope.service" for details.
(exit status 1 of: systemctl start nope)
Starting nope.service...
cannot open /x
nope.service: Main process exited, code=exited, status=3/NOTIMPLEMENTED
nope.service: Failed with result 'exit-code'.
Failed to start nope.service.
tierstack: the old configuration is back in place and runs; look: journalctl -u nope""",
        "exit status 1 of: systemctl start nope (cannot open /x); the old configuration is back in place"
        " and runs; look: journalctl -u nope",
    ),
    "apt": (
        """
Reading package lists...
E: Failed to fetch http://deb.test/pool/s/sl.deb  Could not connect to deb.test:80
E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?
tierstack: sl cannot be installed, as apt says above; look whether this host reaches its package sources.""",
        "sl cannot be installed, as apt says above (E: Failed to fetch http://deb.test/pool/s/sl.deb"
        "  Could not connect to deb.test:80); look whether this host reaches its package sources",
    ),
    "dpkg": (
        """
dpkg: error processing package x (--configure):
 installed x package post-installation script subprocess returned error exit status 1
Errors were encountered while processing:
 x
E: Sub-process /usr/bin/dpkg returned an error code (1)
tierstack: apt-get upgrade failed, as it says above; see /var/log/apt/term.log""",
        "apt-get upgrade failed, as it says above (dpkg: error processing package x (--configure):"
        " installed x package post-installation script subprocess returned error exit status 1); see"
        " /var/log/apt/term.log",
    ),
    "PostgreSQL": (
        """
ERROR:  syntax error at or near "selekt"
LINE 1: selekt 1
        ^""",
        'ERROR:  syntax error at or near "selekt"',
    ),
    "a copy of a database": (
        """
pg_basebackup: error: connection to server at "10.0.0.99", port 5432 failed: No route to host
	Is the server running on that host and accepting TCP/IP connections?""",
        'pg_basebackup: error: connection to server at "10.0.0.99", port 5432 failed: No route to host',
    ),
    "memcached": (
        "failed to listen on one of interface(s) 10.0.0.31: Address already in use",
        "failed to listen on one of interface(s) 10.0.0.31: Address already in use",
    ),
    "Django, by web-release": (
        """
Traceback (most recent call last):
  File "/srv/shop/src/manage.py", line 9, in <module>
    main()
django.core.exceptions.ImproperlyConfigured: The SECRET_KEY setting must not be empty.
  It has been set by nobody.
tierstack: web1: site shop does not start with shop.settings, as Django says above; correct it.""",
        "site shop does not start with shop.settings, as Django says above"
        " (django.core.exceptions.ImproperlyConfigured: The SECRET_KEY setting must not be empty.);"
        " correct it",
    ),
    "Django's checks": (
        """
SystemCheckError: System check identified some issues:

ERRORS:
shop.Item.cover: (fields.E210) Cannot use ImageField because Pillow is not installed.
	HINT: Get Pillow at https://pypi.org/project/Pillow/ or run command "python -m pip install Pillow".

System check identified 1 issue (0 silenced).
tierstack: web1: site shop does not start with shop.settings, as Django says above; correct it.""",
        "site shop does not start with shop.settings, as Django says above (shop.Item.cover:"
        " (fields.E210) Cannot use ImageField because Pillow is not installed.); correct it",
    ),
    "a compiler, by pip": (
        """
  error: subprocess-exited-with-error
      x.c:3:10: fatal error: foo.h: No such file or directory
      error: command '/usr/bin/gcc' failed with exit code 1
ERROR: Failed building wheel for x
tierstack: web1: site shop: x cannot be built here, as pip says above; write what it needs.""",
        "site shop: x cannot be built here, as pip says above (x.c:3:10: fatal error: foo.h: No such file"
        " or directory); write what it needs",
    ),
    "a build command": (
        """
sh: 1: npm: not found
tierstack: web1: site shop: its build command 'npm ci' fails, as it says above; correct it.""",
        "site shop: its build command 'npm ci' fails, as it says above (sh: 1: npm: not found); correct it",
    ),
    "a command that Django does not have": (
        """
Unknown command: 'compress'
Type 'manage.py help' for usage.
tierstack: web1: site shop: its build command 'manage.py compress' fails, as it says above; correct it.""",
        "site shop: its build command 'manage.py compress' fails, as it says above (Unknown command:"
        " 'compress'); correct it",
    ),
    "web-state": (
        """
EMAIL_BACKEND: no.such.Backend cannot be used
MEDIA_ROOT: the running site has another value
tierstack: web1: site shop would not run as it has to, as listed above; correct it.""",
        "site shop would not run as it has to, as listed above (EMAIL_BACKEND: no.such.Backend cannot be"
        " used; and 1 more); correct it",
    ),
    "a reason that the sentence has itself": (
        """
gcc: No such file
tierstack: web1: x cannot be built here, as pip says above: a C compiler is missing; write it.""",
        "x cannot be built here, as pip says above: a C compiler is missing; write it",
    ),
    "an agent that meets what nobody thought of": (
        """
Traceback (most recent call last):
  File "<string>", line 1, in <module>
OSError: [Errno 30] Read-only file system: '/etc/x'""",
        "OSError: [Errno 30] Read-only file system: '/etc/x'",
    ),
    "an agent whose program fails": (
        """
mount.nfs: Connection timed out
Traceback (most recent call last):
  File "<string>", line 1, in <module>
subprocess.CalledProcessError: Command '['mount', '/x']' returned non-zero exit status 32.""",
        "mount.nfs: Connection timed out",
    ),
    "an agent of another host": (
        """
tierstack: db1: Traceback (most recent call last):
  File "<string>", line 1, in <module>
OSError: [Errno 28] No space left on device; what served before serves on""",
        "OSError: [Errno 28] No space left on device; what served before serves on",
    ),
    "nobody": ("\n", "see above"),
}


@pytest.mark.parametrize(("said", "shown"), SAID.values(), ids=list(SAID))
def test_decisive_line_of_many_stands_in_the_summary(said: str, shown: str) -> None:
    """Whichever program it was: why it failed, and in our own words what has become of the host."""
    assert last_words(said.split("\n"), "web1") == shown


def test_line_without_end_is_cut() -> None:
    """A program may say 8 KB in one line."""
    said = ["E: " + "x" * 9000, "tierstack: it failed, as apt says above; look"]
    assert len(last_words(said, "web1")) < 400
    assert len(last_words(said[:1], "web1")) < 400
