"""
Lays out one release of a site, and looks whether the site starts in it. Nothing that serves changes.

    web-release packages ACCOUNT RELEASE     prints what is installed, as JSON
    web-release build HOST SITE ACCOUNT RELEASE REQUIREMENTS     source as base64 on standard input,
        after a line of JSON: the packages that it shall have ("packages"), whose they are ("of"), and
        how long pip may take, in seconds ("build_s")
    web-release check HOST SITE ACCOUNT RELEASE CONFIG MODULE HOSTS [LOCAL_CACHE ...]
                                                                 build commands as JSON, likewise

HOSTS is how many web hosts there are, a LOCAL_CACHE a cache that each may keep for itself. A build
command is one of the site's own, run in the directory of its manage.py: {"project": DIRECTORY,
"commands": [["npm", "run", "build"], ...], "build_s": longest that each step may take, "pool": what
PostgreSQL has for the site's own pool, as `pool_budget` says it}.

The site's code and its requirements' are never run as root. What makes a release is run by an account
that serves nothing, since visitors may have broken into the one that serves: that one neither sees
how a release is made nor changes it. What only looks at the site is run as the site's account. Each is
a unit of systemd's that ends them all with the first, or when they take too long; and what they
leave behind is copied by root into files of its own: the running site cannot change a release, and
whatever they made of their directories (links, pipes, other names of other files), root neither
changes nor follows it.
"""

from __future__ import annotations

import base64
import ensurepip
import errno
import fcntl
import hashlib
import io
import json
import os
import pwd
import re
import select
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

#: Tells what `web-state` finds from what the site's own code prints.
FINDING = "tierstack-finding: "

UNTOUCHED = "nothing that serves was changed."

#: What everybody says whose disk is full.
FULL = os.strerror(errno.ENOSPC)

#: One of these at a time.
LOCK = "/run/tierstack/locks/release"

#: What pip and the site run in: systemd ends all of it, whatever a package's build has left at work.
UNIT = "tierstack-build.service"

#: Longest that a look at the site may take, in seconds: it loads the site, and makes nothing.
CHECK_S = 300

#: Most that is kept of what a program says, its end, in bytes.
SAID = 1 << 24

#: How often it is looked whether a program is still wanted, in seconds.
LOOK_S = 0.5

#: The variables of what pip runs in: proxies may have passwords in theirs.
ENVIRONMENT = "/run/tierstack/build.env"

#: Variables that say who is at work, from where, and where that one keeps temporary files.
NOT_PASSED = re.compile(
    r"(HOME|USER|LOGNAME|MAIL|SHELL|PWD|OLDPWD|TERM|TMPDIR|_|LC_.*|LANG|(SSH|SUDO|XDG|DBUS|SYSTEMD)_.*)"
)

#: Venvs that are copied, root's: one as Python makes it, with nothing but pip and setuptools, and
#: "-ACCOUNT", with what a site required last. What is in one is told by the file ".kind" beside it.
PATTERN = "/var/lib/tierstack/venv"

#: Who makes releases. It reads what the site's group may read.
BUILDER = "tierstack-build"

#: What it keeps: in "pip", by site, what pip has fetched and built; "home", which is made anew.
CACHE = "/var/cache/tierstack-build"

#: Where the accounts that serve kept such things until there was a builder; nobody reads it.
FORMER_CACHE = "/var/cache/tierstack"

#: A line of a requirements file that means the same whatever lies beside it: no other file, no
#: address, no variable. Source: pip documentation, "Requirements File Format".
PLAIN = re.compile(r"(?![-.]|.*\.(whl|zip|tar|tgz|tbz|txz|tlz)\b)[^/@$]*|--hash=[^/@$]*")

#: Where a package says what it is: name and version.
PACKAGE = re.compile(r"([A-Za-z0-9][\w.]*)-([\w.!+]+?)(?:-py[\d.]+)?\.(?:dist|egg)-info")

#: What Debian's Python brings into each venv.
VENV_ITSELF = frozenset({"pip", "setuptools", "wheel"})

#: Deeper than any package lays its directories.
DEEPEST = 60


class UnfitError(Exception):
    """Something among a site's files that has no place in a release."""


class TooLongError(Exception):
    """
    Something has taken longer than it may, and was ended.

    Args:
        what: what it was, for a sentence.
        limit_s: how long it may take, in seconds.
        output: what it has said.
    """

    def __init__(self, what: str, limit_s: int, output: str) -> None:
        # No look takes longer because a site's builds may.
        longer = "" if limit_s == CHECK_S else ", or write a larger build_s in the site"
        super().__init__(
            f"{what} took longer than {limit_s} s and was ended; see what it waits for{longer}, and"
            " deploy again"
        )
        self.output = output


def build(host: str, site: str, account: str, release: str, requirements: str) -> int:
    """
    Unpack the source, make its venv. A venv cannot be moved, so it is made in place.

    RELEASE/.built is written last: what lies there without it is a leftover. One that has other
    packages than it shall have is made anew, unless it serves.
    """
    header, _, body = sys.stdin.read().partition("\n")
    asked = json.loads(header)
    source = base64.b64decode(body)
    src, venv = release + "/src", release + "/venv"
    remove(FORMER_CACHE)
    # A run that was cut off may have been at work here until now.
    there = os.path.exists(release + "/.built")
    if there and (serves(release) or not differing(installed(venv), asked["packages"])):
        return 0
    remove(release)
    os.makedirs(src)
    constrain(release, asked["packages"])
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        archive.extractall(src)
    pattern, wanted = f"{PATTERN}-{account}", kind(read(os.path.join(src, requirements)))
    # A file that names files may have pip build the site's own source, which writes into it.
    own = wanted == ""
    there = wanted != "" and read(pattern + ".kind") == wanted
    if there and not differing(installed(pattern), asked["packages"]):
        copy_venv(pattern, venv, 0)
    else:
        output = make_venv(venv)
        if output is not None and FULL in output:
            return no_room(output, host, site, release, os.path.dirname(PATTERN))
        if output is not None:
            return fail(output, f"{host}: no venv can be made in {release}; {UNTOUCHED}")
        status = install(host, site, account, release, requirements, asked, own=own)
        if status:
            return status
        if wanted:
            keep_venv(venv, pattern, wanted, account)
    if not own:
        run(compiling(src))
    mark(release + "/.built")
    return 0


def install(
    host: str,
    site: str,
    account: str,
    release: str,
    requirements: str,
    asked: dict[str, Any],
    *,
    own: bool,
) -> int:
    """Install what the site requires into its release's venv, and the source too if it is built."""
    src, venv = release + "/src", release + "/venv"
    cache = f"{CACHE}/pip/{account}"
    for folder in (venv, *([src] if own else [])):
        give(folder, BUILDER)
    pip = [venv + "/bin/python", "-m", "pip", "install", "--no-input", "--no-color"]
    pip += ["--progress-bar=off", "--disable-pip-version-check", "--cache-dir=" + cache]
    constraints = release + "/constraints.txt"
    pip += ["-c", constraints] if asked["packages"] else []
    limit_s = int(asked["build_s"])
    what = f"pip install -r {requirements}"
    with lent(cache), new_home() as home:
        variables = {"HOME": home}
        output = run_in_unit(what, [*pip, "-r", requirements], account, src, limit_s, variables)
    if output is not None and FULL in output:
        return no_room(output, host, site, release, cache)
    if output is not None:
        remove(release)
        output = without_passwords(output)
        if unbuilt := build_trouble(output):
            return fail(output, f"{host}: site {site}: {unbuilt}, and deploy again; {UNTOUCHED}")
        where = f"{host}: site {site}: {requirements}"
        of = asked["of"] if asked["packages"] else ""
        return fail(output, f"{where}: {not_installed(output, requirements, of)}; {UNTOUCHED}")
    if own:
        run_in_unit("compiling its source", compiling(src), account, src, limit_s)
    try:
        for folder in (venv, *([src] if own else [])):
            take(folder, BUILDER)
    except UnfitError as problem:
        remove(release)
        return fail(
            "",
            f"{host}: site {site}: {requirements}: what it installs leaves {problem}, which has no"
            f" place in a release; take out the package that does so, and deploy again; {UNTOUCHED}",
        )
    have, want = installed(venv), asked["packages"]
    if others := differing(have, want):
        remove(release)
        what = ", ".join(f"{name} is {have[name]}, and {want[name]} there" for name in others)
        return fail(
            "",
            f"{host}: site {site}: {requirements}: what it names is no longer what {asked['of']} has"
            f" of the same release: {what}; write in {requirements} which version or commit all shall"
            f" have, and deploy again; {UNTOUCHED}",
        )
    return 0


def not_installed(output: str, requirements: str, of: str) -> str:
    """
    Say which requirement does not install, and what to do.

    Args:
        output: pip's own words.
        requirements: the file's name.
        of: the host whose versions were asked for; "" where pip chose them.
    """
    culprit = re.sub(r"^-r \S+ \(line (\d+)\)$", r"line \1", failing_requirement(output))
    if python := wanted_python(output, culprit):
        return (
            f"{culprit} needs Python {python}, and this host has {sys.version_info[0]}."
            f"{sys.version_info[1]}; write a version that runs with it, and deploy again"
        )
    what = f"{culprit} does not install" if culprit else "not everything in it installs"
    hint = "".join(
        f"; pip needs {package} for it, which is not here: write packages=[{package!r}] in the site"
        for command, package in TOOLS.items()
        if command + "+" in output or f"find command {command!r}" in output
        if not shutil.which(command)
    )
    advice = "correct that line"
    if of:
        what += f" in the version that {of} has"
        advice = f"write versions in {requirements} that can be had"
    return f"{what}, as pip says above; {advice}{hint}, and deploy again"


def wanted_python(output: str, culprit: str) -> str:
    """
    Return which Python the versions need that pip left out for that reason; "" if it left none out.

    Pip names what it left out of every package that it looked at, so only versions count that the
    requirement asks for.
    """
    left_out = re.search(r"require a different python version: (.*)", output)
    if not left_out or f"No matching distribution found for {culprit}" not in output:
        return ""
    versions: dict[str, str] = dict(re.findall(r"(\S+) Requires-Python ([^;]+)", left_out[1]))
    asked = re.search(r"(==|>=|~=|>)\s*([\w.!+]+)", culprit)
    if not asked:
        return ""
    if asked[1] == "==":
        return versions.get(asked[2], "").strip()
    high_enough = [
        python for version, python in versions.items() if _parts(version) >= _parts(asked[2])
    ]
    return high_enough[-1].strip() if high_enough else ""


def _parts(version: str) -> list[int]:
    """Return a version's numbers, to be compared."""
    return [int(part) for part in re.findall(r"\d+", version)]


def compiling(src: str) -> list[str]:
    """Return the command that compiles a source: it writes beside the files."""
    return [sys.executable, "-m", "compileall", "-q", src]


def kind(requirements: str = "") -> str:
    """Return what a venv is made of; "" if the file's text alone does not tell what pip installs."""
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in requirements.splitlines()]
    if not all(PLAIN.fullmatch(line) for line in lines):
        return ""
    # Comments count: whoever wants newer packages changes one.
    python = "{}.{}".format(*sys.version_info)
    # What was installed before there was a builder, whoever serves could have changed.
    who = f", {BUILDER}" if requirements else ""
    return f"{python}, pip {ensurepip.version()}{who}\n{requirements}"


def make_venv(venv: str) -> str | None:
    """
    Make a venv without the site's requirements; return None, or what was said when it failed.

    Most of the work is pip's and setuptools' own installation. It is done once a host, and copied.
    """
    if read(PATTERN + ".kind") != kind():
        remove(PATTERN)
        output = run([sys.executable, "-m", "venv", PATTERN])
        if output is not None:
            return output
        with open(PATTERN + ".kind", "w") as file:
            file.write(kind())
    copy_venv(PATTERN, venv, 0)
    return None


# Which packages there are


def packages(account: str, release: str) -> int:
    """Print what is installed for a release, and what is kept for the next of the same requirements."""
    kept = f"{PATTERN}-{account}"
    # Without its first line, which says by what.
    requirements = read(kept + ".kind").partition("\n")[2]
    built = os.path.exists(release + "/.built")
    said = {
        "release": installed(release + "/venv") if built else {},
        "served": serves(release),
        "kept": installed(kept) if requirements else {},
        "kept_for": hashlib.sha256(requirements.encode()).hexdigest(),
    }
    print(json.dumps(said))
    return 0


def serves(release: str) -> bool:
    """Return whether a release is the one that its site serves here."""
    with suppress(OSError):
        return os.readlink(os.path.dirname(os.path.dirname(release)) + "/current") == release
    return False


def installed(venv: str) -> dict[str, str]:
    """
    Return the version of each package in a venv, by its normalized name.

    With the commit or the hash where the package was named by an address: there, a version says
    little. What was built from the release's own source is left out.

    Source: packaging.python.org, "Recording installed projects" and "Direct URL Data Structure".
    """
    place = "{}/lib/python{}.{}/site-packages".format(venv, *sys.version_info)
    found: dict[str, str] = {}
    for name in sorted(os.listdir(place)) if os.path.isdir(place) else []:
        match = PACKAGE.fullmatch(name)
        if not match:
            continue
        origin = direct_origin(os.path.join(place, name))
        if origin is not None:
            found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2] + origin
    return found


def direct_origin(info: str) -> str | None:
    """Return what beside its version tells which package it is, "" by default; None for own source."""
    try:
        opened = os.open(info + "/direct_url.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        with open(opened, "rb") as file:
            said = json.loads(file.read(65536))
        if "dir_info" in said:
            return None
        commit = str(said.get("vcs_info", {}).get("commit_id", ""))
        digest = str(said.get("archive_info", {}).get("hash", ""))
    except (ValueError, AttributeError, OSError):
        return ""
    if re.fullmatch(r"[0-9a-f]{7,64}", commit):
        return f" at {commit}"
    return f" with {digest}" if re.fullmatch(r"\w+=[0-9a-f]+", digest) else ""


def differing(have: dict[str, str], want: dict[str, str]) -> list[str]:
    """Return the packages of which another version is there; one may be for some processors only."""
    both = have.keys() & want.keys() - VENV_ITSELF
    return sorted(name for name in both if have[name] != want[name])


def constrain(release: str, wanted: dict[str, str]) -> None:
    """Write the versions for pip; of what an address names, only the address can tell."""
    lines = [
        f"{name}=={version}\n" for name, version in sorted(wanted.items()) if " " not in version
    ]
    with open(release + "/constraints.txt", "w") as file:
        file.writelines(lines)


def keep_venv(venv: str, pattern: str, wanted: str, account: str) -> None:
    """
    Keep a copy of a venv for releases that require the same; where that fails, there is none.

    It is as it was installed, whatever somebody does to a release's own, and needs no package index.
    """
    with suppress(FileNotFoundError):
        os.unlink(pattern + ".kind")
    remove(pattern)
    try:
        copy_venv(venv, pattern, 0)
        private(pattern, account)
    except (OSError, UnfitError):
        remove(pattern)
        return
    with open(pattern + ".kind", "w", encoding="utf-8") as file:
        file.write(wanted)


def check(
    host: str,
    site: str,
    account: str,
    release: str,
    config: str,
    module: str,
    hosts: str,
    *local_caches: str,
) -> int:
    """
    Run the site's build commands, start it with the cluster's settings, look through it, then
    collect its static files.

    CONFIG/.checked is written last.
    """
    complete = os.path.exists(release + "/.complete")
    asked = json.loads(sys.stdin.read())
    limit_s = int(asked["build_s"])
    if not complete:
        # Build commands may put files of theirs there, too.
        static = release + "/static"
        remove(static)
        os.mkdir(static, 0o755)
        give(static, BUILDER)
        status = build_commands(host, site, account, release, config, asked)
        if status:
            return status
    output = manage(config, account, min(limit_s, CHECK_S), "check")
    if output is not None:
        return fail(
            output,
            f"{host}: site {site} does not start with {module}, as Django says above;"
            f" correct it, and deploy again; {UNTOUCHED}",
        )
    found, output = look_through(
        config, account, min(limit_s, CHECK_S), local_caches, asked["pool"]
    )
    if output:
        return fail(
            output,
            f"{host}: site {site} cannot be looked through, as Django says above; correct it, and"
            f" deploy again; {UNTOUCHED}",
        )
    if found["settings"]:
        return fail(
            "\n".join(found["settings"]),
            f"{host}: site {site} would not run as it has to, as listed above; correct it in"
            f" {module}, and deploy again; {UNTOUCHED}",
        )
    if found["local"] and int(hosts) > 1:
        return fail(
            "\n".join(found["local"]),
            f"{host}: site {site} keeps on one web host what all {hosts} must see, as listed"
            f" above; correct it in {module}, and deploy again; {UNTOUCHED}",
        )
    if not complete:
        status = collect(host, site, account, release, config, limit_s)
        if status:
            return status
        mark(release + "/.complete")
    mark(config + "/.checked")
    return 0


def build_commands(
    host: str, site: str, account: str, release: str, config: str, asked: dict[str, Any]
) -> int:
    """Run the site's own commands, which may write into its source, one after the other."""
    src = release + "/src"
    if not asked["commands"]:
        return 0
    # Until they have ended well, what lies there is no source: whoever comes next unpacks it anew.
    os.unlink(release + "/.built")
    give(src, BUILDER)
    with new_home() as home:
        environment = {"HOME": home, "PATH": f"{release}/venv/bin:{os.environ['PATH']}"}
        status = each_command(host, site, account, config, asked, environment)
    if status:
        return status
    try:
        take(src, BUILDER)
    except UnfitError as problem:
        return fail(
            "",
            f"{host}: site {site}: its build commands leave {problem}, which has no place in a"
            f" release; correct that, and deploy again; {UNTOUCHED}",
        )
    mark(release + "/.built")
    return 0


def each_command(
    host: str,
    site: str,
    account: str,
    config: str,
    asked: dict[str, Any],
    environment: Mapping[str, str],
) -> int:
    """Run build commands until one fails."""
    for words in asked["commands"]:
        shown = shlex.join(words)
        if words[:1] == ["python"] and words[1:2] == ["manage.py"]:
            words = words[1:]
        if words[0] in ("manage.py", "./manage.py"):
            words = [config + "/manage", *words[1:]]
        what = f"its build command {shown!r}"
        limit_s = int(asked["build_s"])
        output = run_in_unit(what, words, account, asked["project"], limit_s, environment)
        if output is not None:
            return fail(
                without_passwords(output),
                f"{host}: site {site}: its build command {shown!r} fails, as it says above;"
                f" correct it{denied(output, account)}, and deploy again; {UNTOUCHED}",
            )
    return 0


def collect(host: str, site: str, account: str, release: str, config: str, limit_s: int) -> int:
    """Collect the site's static files into its release."""
    static = release + "/static"
    words = ("collectstatic", "--noinput", "--verbosity=0")
    output = manage(config, BUILDER, limit_s, *words, more=builders(account))
    if output is not None:
        return fail(
            output,
            f"{host}: site {site}: its static files cannot be collected, as Django says above;"
            " correct the file, or write hashed_static=False in the site if CSS names files that do"
            f" not exist{denied(output, account)}; {UNTOUCHED}",
        )
    try:
        take(static, BUILDER)
    except UnfitError as problem:
        return fail(
            "",
            f"{host}: site {site}: collecting its static files leaves {problem}, which has no place"
            f" in a release; correct that, and deploy again; {UNTOUCHED}",
        )
    return 0


def denied(output: str, account: str) -> str:
    """Say what the builder may not, should that be why something fails; "" if it is not."""
    if "Permission" not in output:
        return ""
    return (
        f"; if it may not open a file, such as a log, that is {account}'s alone: {BUILDER} runs it,"
        f" which has the group {account} (chmod g+rw FILE)"
    )


def manage(
    config: str, account: str, limit_s: int, *words: str, more: Mapping[str, str] | None = None
) -> str | None:
    """Run a management command of the site, as a worker would: without the variables of the run."""
    command = [config + "/manage", *words]
    done = in_unit(f"manage.py {words[0]}", command, account, "/", limit_s, more)
    return None if done.returncode == 0 else done.stdout


def look_through(
    config: str,
    account: str,
    limit_s: int,
    local_caches: tuple[str, ...],
    pool: dict[str, int],
) -> tuple[dict[str, list[str]], str]:
    """Return what `web_state` finds, and what kept it from looking, or ""."""
    state = os.path.join(os.path.dirname(os.path.abspath(__file__)), "web-state")
    program = f"exec(open({state!r}).read()); report({FINDING!r}, {local_caches!r}, {pool!r})"
    command = [config + "/manage", "shell", "--verbosity=0", "--command=" + program]
    done = in_unit("the look at its settings", command, account, "/", limit_s)
    # Between what the site's own code prints.
    lines = [line for line in done.stdout.splitlines() if line.startswith(FINDING)]
    if done.returncode or not lines:
        return {}, done.stdout or "it said nothing"
    found: dict[str, list[str]] = json.loads(lines[-1].removeprefix(FINDING))
    return found, ""


def no_room(output: str, host: str, site: str, release: str, *others: str) -> int:
    """Say which disk is full; a release that is half laid out goes, as it helps to fill it."""
    places = [path for path in (release, "/tmp", *others) if os.path.exists(path)]
    place = min(places, key=lambda path: shutil.disk_usage(path).free)
    while not os.path.ismount(place):
        place = os.path.dirname(place)
    if not os.path.exists(release + "/.built"):
        remove(release)
    return fail(
        output,
        f"{host}: site {site}: no room is left on {place}; make some (df -h {place}), and deploy"
        f" again; {UNTOUCHED}",
    )


# Files that the site's account makes, and root after it


def give(top: str, account: str) -> None:
    """
    Make a directory of root's and all that lies in it an account's.

    From the bottom up: while names in a directory are looked up, it is still root's to change.
    """
    user = pwd.getpwnam(account)
    who = (user.pw_uid, user.pw_gid)
    for _, folders, files, descriptor in os.fwalk(top, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            os.chown(name, *who, dir_fd=descriptor, follow_symlinks=False)
    os.chown(top, *who, follow_symlinks=False)


def take(top: str, account: str) -> None:
    """
    Make a directory that an account has filled root's, by a copy in its place.

    A change of owner would not do: whoever has a file open goes on writing, processes of the same
    account exchange names meanwhile, and a file may have another name elsewhere.
    """
    filled = top + ".filled"
    remove(filled)
    os.rename(top, filled)  # Its parent is root's.
    copy_tree(filled, top, pwd.getpwnam(account).pw_uid)
    remove(filled)


def copy_venv(source: str, venv: str, owner: int) -> None:
    """Copy a venv of an owner's; the files that say where it lies say so of the copy."""
    copy_tree(source, venv, owner, (source.encode(), venv.encode()))


def copy_tree(
    source: str, target: str, owner: int, moved: tuple[bytes, bytes] | None = None
) -> None:
    """
    Copy a tree into new files of root's, readable by all and executable where they were.

    Each name is looked up in an open directory and no link is followed, so that it does not matter
    what becomes of the source meanwhile. Links are made anew as they are.

    Args:
        source: a directory whose parent is root's.
        target: the directory to make; its parent is root's.
        owner: number of the account whose files these are: another one's have been brought here by
            a second name of theirs.
        moved: a path in the venv's own files, and what stands there instead in the copy.

    Raises:
        UnfitError: there is something that is neither file, directory nor link, or another's file.
    """
    opened = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _copy_directory(opened, target, "", owner, moved)
    finally:
        os.close(opened)


def _copy_directory(
    source: int, target: str, inner: str, owner: int, moved: tuple[bytes, bytes] | None
) -> None:
    os.mkdir(target, 0o755)
    if inner.count("/") > DEEPEST:
        raise UnfitError(f"directories {DEEPEST} deep")
    for name in os.listdir(source):
        path, place = os.path.join(inner, name), os.path.join(target, name)
        try:
            found = os.stat(name, dir_fd=source, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode):
                os.symlink(os.readlink(name, dir_fd=source), place)
                continue
            # Not to wait for whoever may write into a pipe.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
                raise UnfitError(f"{path!r}, a device, pipe or socket")
            opened = os.open(name, flags, dir_fd=source)
        except FileNotFoundError:
            continue  # It was there a moment ago: somebody is still at work, on what is theirs.
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
                raise
            raise UnfitError(f"{path!r}, which changes all the time") from None
        try:
            found = os.fstat(opened)
            if stat.S_ISDIR(found.st_mode):
                _copy_directory(opened, place, path, owner, moved)
            elif not stat.S_ISREG(found.st_mode):
                raise UnfitError(f"{path!r}, a device, pipe or socket")
            elif found.st_uid != owner:
                raise UnfitError(f"{path!r}, another account's file")
            else:
                own = moved if re.fullmatch(r"pyvenv\.cfg|bin/[^/]*", path) else None
                _copy_file(opened, found, place, own)
        finally:
            os.close(opened)


def _copy_file(
    opened: int, found: os.stat_result, place: str, moved: tuple[bytes, bytes] | None
) -> None:
    with open(opened, "rb", closefd=False) as source, open(place, "xb") as target:
        if moved:
            content = source.read()
            # Programs may lie there, too, that are no text.
            target.write(content if b"\0" in content else content.replace(*moved))
        else:
            shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        os.fchmod(target.fileno(), 0o755 if found.st_mode & 0o111 else 0o644)
        # What Python has compiled counts only for a file of the same age.
        os.utime(target.fileno(), ns=(found.st_atime_ns, found.st_mtime_ns))


def private(folder: str, account: str) -> None:
    """Let nobody but root and an account look into a directory of root's; make it if it is missing."""
    os.makedirs(folder, exist_ok=True)
    os.chown(folder, 0, pwd.getpwnam(account).pw_gid, follow_symlinks=False)
    os.chmod(folder, 0o750)


@contextmanager
def lent(folder: str) -> Iterator[None]:
    """Let the builder have a directory, which is there from now on, for a while; then root alone."""
    os.makedirs(folder, exist_ok=True)
    user = pwd.getpwnam(BUILDER)
    os.chmod(folder, 0o700)
    os.chown(folder, user.pw_uid, user.pw_gid, follow_symlinks=False)
    try:
        yield
    finally:
        os.chown(folder, 0, 0, follow_symlinks=False)


@contextmanager
def new_home() -> Iterator[str]:
    """Yield a home for the builder in which nothing lies, as programs such as npm want one to write."""
    home = CACHE + "/home"
    remove(home)
    os.makedirs(CACHE, exist_ok=True)
    os.mkdir(home)
    try:
        with lent(home):
            yield home
    finally:
        remove(home)


def remove(top: str) -> None:
    """Remove a tree, or as much of it as can be; no link in it is followed."""
    for _ in range(3):  # Its account may still be filling it.
        shutil.rmtree(top, ignore_errors=True)
        if not os.path.lexists(top):
            break


# The Debian package of each program that pip fetches by.
TOOLS = {"git": "git", "hg": "mercurial", "svn": "subversion"}

# pip's own words for what it stumbles over, the first to come first.
CULPRITS = (
    r"No matching distribution found for (.+?)(?: \(from|$)",
    r"Invalid requirement: '(.+?)'(?: \(from|: |$)",
    r"Invalid requirement: ([^'].*?)(?: \(from|: |$)",
    r"Cannot install (.+?) because",
    r"Failed building wheel for (\S+)",
    r"Failed to build '?([^\s']+)'?",
    r"^ {4,}(.+?)(?: from \S+)? \(from -r",
    r"^\s+(\S+==\S+) --hash",
    r"Could not install packages due to an OSError: (.+)",
    r"Could not open requirements file: .*?'([^']+)'",
    r"Could not find a version that satisfies the requirement (.+?) \(",
)


# What pip's output says that is missing where a package has to be compiled, what that is, and the
# Debian packages that bring it.
COMPILER = ("build-essential", "python3-dev")
MISSING: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"pg_config", "pg_config", ("libpq-dev", *COMPILER)),
    (r"mysql_config|MYSQLCLIENT_CFLAGS", "mysql_config", ("default-libmysqlclient-dev", "pkg-config", *COMPILER)),
    (r"libxml/|libxml2|xslt-config", "libxml2", ("libxml2-dev", "libxslt1-dev", *COMPILER)),
    (r"found for jpeg|jpeglib\.h", "libjpeg", ("libjpeg-dev", "zlib1g-dev", *COMPILER)),
    (r"\bffi\.h", "libffi", ("libffi-dev", *COMPILER)),
    (r"openssl/\S+\.h", "OpenSSL's headers", ("libssl-dev", *COMPILER)),
    (r"\blber\.h|\bldap\.h", "OpenLDAP's headers", ("libldap2-dev", "libsasl2-dev", *COMPILER)),
    (r"gdal-config", "gdal-config", ("libgdal-dev", *COMPILER)),
    (r"cairo\.h|Dependency \"?cairo", "cairo", ("libcairo2-dev", "pkg-config", *COMPILER)),
    (r"xmlsec", "xmlsec", ("libxmlsec1-dev", "pkg-config", *COMPILER)),
    (r"can't find Rust compiler|cargo, the Rust", "a Rust compiler", ("cargo", "rustc", *COMPILER)),
    (r"Python\.h", "Python's headers", COMPILER),
    (
        r"need a C compiler|'[^']*\b(?:gcc|g\+\+|cc)' failed: No such file"
        r"|No such file or directory: '[^']*\b(?:gcc|g\+\+|cc)'|Unknown compiler",
        "a C compiler",
        COMPILER,
    ),
)  # fmt: skip


def build_trouble(output: str) -> str:
    """
    Return which requirement cannot be built, what is missing for it and what to write; "" if all can.

    The line is that of the user's file, though it may be a package of a package that fails.
    """
    begun, broken, said = output.partition("error: subprocess-exited-with-error")
    # To fetch a package, or what it is built with, are other troubles.
    if not broken or re.search(r"× (?:git|hg|svn|pip subprocess) ", said):
        return ""
    failed = re.search(r"Failed building wheel for (\S+)", said)
    collected = re.findall(r"^(?:Collecting|Processing) (\S+)(.*)$", begun, re.MULTILINE)
    named = [(name, rest) for name, rest in collected if failed and same_name(name, failed[1])]
    name, rest = (named or collected or [("", "")])[-1]
    what = failed[1] if failed else re.split(r"[=<>!~\[;]", name)[0]
    line = re.search(r"-r (\S+) \(line (\d+)\)", rest)
    where = f"{line[1]}, line {line[2]}: " if line else ""
    lacks = [(thing, debian) for sign, thing, debian in MISSING if re.search(sign, said)]
    if not lacks:
        header = re.search(r"fatal error: (\S+\.h): No such file", said)
        more = f"; the header {header[1]} is missing: find its Debian package" if header else ""
        return (
            f"{where}{what or 'a package'} cannot be built here, as pip says above{more}; write what it"
            " needs as packages=[…] in the site, or require a version that comes built"
        )
    packages = list(dict.fromkeys(package for _, debian in lacks for package in debian))
    return (
        f"{where}{what} cannot be built here, as pip says above: {lacks[0][0]} is missing; write"
        f" packages={json.dumps(packages)} in the site, or require a version that comes built"
    )


def same_name(requirement: str, package: str) -> bool:
    """Whether a requirement, as pip collects it, is for a package."""
    name = re.split(r"[=<>!~\[;@ ]", requirement)[0]
    return re.sub(r"[-_.]+", "-", name).lower() == re.sub(r"[-_.]+", "-", package).lower()


def failing_requirement(output: str) -> str:
    """Return the requirement that pip names as the one that failed, or ""."""
    found = [
        (match.start(), match.group(1))
        for pattern in CULPRITS
        for match in [re.search(pattern, output, re.MULTILINE)]
        if match
    ]
    if found:
        return min(found)[1]
    begun: list[str] = re.findall(r"^Collecting (.+?)(?: \(from .*)?$", output, re.MULTILINE)
    return begun[-1] if begun else ""


def without_passwords(output: str) -> str:
    """Return pip's words without what logs in to a repository: of a line from git it shows all."""
    return re.sub(r"://(?!git@)[^/\s@]+@", "://****@", output)


def run(command: list[str]) -> str | None:
    """Run a program of root's to its end; return None, or what it said when it failed."""
    done = captured(command, {**os.environ, "LC_ALL": "C.UTF-8"})
    return None if done.returncode == 0 else done.stdout


def builders(account: str) -> dict[str, str]:
    """Return the properties of a unit of the builder's for a site, whose account this is."""
    return {"SupplementaryGroups": account, "PrivateTmp": "yes"}


def run_in_unit(
    what: str,
    command: list[str],
    account: str,
    directory: str,
    limit_s: int,
    more: Mapping[str, str] | None = None,
) -> str | None:
    """
    Run what builds something, with the variables of the run.

    Args:
        what: as of `in_unit`.
        command: likewise.
        account: the account of the site for which it is built.
        directory: as of `in_unit`.
        limit_s: likewise.
        more: further variables.

    Return None, or what it said when it failed.
    """
    with open(ENVIRONMENT, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(environment_file({**os.environ, "LC_ALL": "C.UTF-8"}))
        file.write(environment_file(more or {}, own=True))
    try:
        own = {"EnvironmentFile": ENVIRONMENT, "RestrictSUIDSGID": "yes", **builders(account)}
        done = in_unit(what, command, BUILDER, directory, limit_s, own)
    finally:
        os.unlink(ENVIRONMENT)
    return None if done.returncode == 0 else done.stdout


def in_unit(
    what: str,
    command: list[str],
    account: str,
    directory: str,
    limit_s: int,
    more: Mapping[str, str] | None = None,
    *,
    unit: str = UNIT,
    wanted: Callable[[], bool] | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program as an account, in a unit of its own: with its end all ends that it has started.

    Args:
        what: what it is, for a sentence.
        command: its words.
        account: who runs it.
        directory: where.
        limit_s: longest that it may take, in seconds.
        more: further properties of the unit.
        unit: the unit's name; there is one of that name at a time.
        wanted: asked now and then; once it says no, the unit is stopped.

    Raises:
        TooLongError: it took longer.
    """
    # Of a run that was killed with its unit going on.
    for verb in ("stop", "reset-failed"):
        subprocess.run(["systemctl", verb, unit], stderr=subprocess.DEVNULL)
    properties = {
        "User": account,
        "WorkingDirectory": directory,
        "RuntimeMaxSec": str(limit_s),
        "KillMode": "control-group",
        "KillSignal": "SIGKILL",
        "NoNewPrivileges": "yes",
        **(more or {}),
    }
    # Without --collect: how it ended is asked for afterwards.
    starting = ["systemd-run", "--quiet", "--wait", "--pipe", "--unit=" + unit]
    starting += [f"--property={name}={value}" for name, value in properties.items()]

    def look() -> None:
        if wanted and not wanted():
            subprocess.run(["systemctl", "stop", unit], stderr=subprocess.DEVNULL)

    # systemd would put variables of the unit's in their place. Source: systemd.service(5), "Command lines".
    words = [word.replace("$", "$$") for word in command]
    done = captured([*starting, "--", *words], dict(os.environ), look if wanted else None)
    asking = ["systemctl", "show", "--property=Result", "--value", unit]
    result = subprocess.run(asking, stdout=subprocess.PIPE, text=True).stdout.strip()
    subprocess.run(["systemctl", "reset-failed", unit], stderr=subprocess.DEVNULL)
    if result == "timeout":
        raise TooLongError(what, limit_s, done.stdout)
    return done


def environment_file(variables: Mapping[str, str], *, own: bool = False) -> str:
    """
    Return variables as systemd reads them from a file. Source: systemd.exec(5), EnvironmentFile.

    Args:
        variables: their values by name; of a run's own, those of `NOT_PASSED` are left out.
        own: whether they are meant for what is run, all of them.
    """
    lines = []
    for name, value in sorted(variables.items()):
        if "\n" not in value and (own or name == "LC_ALL" or not NOT_PASSED.fullmatch(name)):
            quoted = re.sub(r'([\\"`$])', r"\\\1", value)
            lines.append(f'{name}="{quoted}"\n')
    return "".join(lines)


def captured(
    command: list[str], environment: dict[str, str], look: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """
    Run a program; what it says is read until it ends and no longer, whoever keeps its output open.

    Args:
        command: its words.
        environment: its variables.
        look: called now and then while it runs.
    """
    with subprocess.Popen(
        command,
        cwd="/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout
        pipe, ended = process.stdout.fileno(), os.pidfd_open(process.pid)
        os.set_blocking(pipe, False)
        said, waiting = bytearray(), [ended, pipe]
        try:
            while True:
                ready = select.select(waiting, [], [], LOOK_S if look else None)[0]
                # All that it holds, and not what others write meanwhile.
                with suppress(BlockingIOError):
                    found = os.read(pipe, fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ))
                    said += found
                    if not found:
                        waiting = [ended]
                del said[:-SAID]
                if ended in ready:
                    break
                if look:
                    look()
        finally:
            os.close(ended)
    text = said.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return subprocess.CompletedProcess(command, process.returncode, text)


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def mark(path: str) -> None:
    with open(path, "w") as file:
        os.fsync(file.fileno())


def fail(output: str, sentence: str) -> int:
    print(shown(output), file=sys.stderr)
    print("tierstack: " + shown(sentence), file=sys.stderr)
    return 1


def shown(output: str) -> str:
    """Return the last lines of what others' programs say, none of it long or a terminal's command."""
    lines = [
        re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", line)
        for line in output.strip().splitlines()[-25:]
    ]
    return "\n".join(line if len(line) <= 2000 else f"{line[:500]} …" for line in lines)


def main(arguments: list[str]) -> int:
    """Do what the arguments say; return the exit status."""
    commands: dict[str, Callable[..., int]] = {"build": build, "check": check}
    os.umask(0o022)
    if arguments[0] == "packages":
        return packages(*arguments[1:])  # It changes nothing, and waits for nobody.
    # What a run that was cut off has left at work here ends first; the lock ends with it.
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return commands[arguments[0]](*arguments[1:])
        except TooLongError as problem:
            host, site = arguments[1:3]
            output = without_passwords(problem.output)
            return fail(output, f"{host}: site {site}: {problem}; {UNTOUCHED}")
        except OSError as problem:
            host, site, _, release = arguments[1:5]
            if problem.errno == errno.ENOSPC:
                return no_room(str(problem), host, site, release)
            return fail(
                "",
                f"{host}: site {site}: its release cannot be laid out ({problem}); correct that, and"
                f" deploy again; {UNTOUCHED}",
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
