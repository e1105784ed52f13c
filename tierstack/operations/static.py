"""Static files of a release, from the web host that collected them to a media host.

Reason: the two hosts hold no key for each other, and should not. The controller, which may enter
both, asks one for an archive and gives it to the other; nothing is written in between.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator

from pyinfra import host, inventory
from pyinfra.api.command import PyinfraCommand
from pyinfra.api.facts import FactBase
from pyinfra.api.operation import operation

from tierstack.hosts import ask_all, in_this_run
from tierstack.model.plan import Effect
from tierstack.operations.foreseen import Foreseen
from tierstack.operations.gate import Refuse, executing

#: Lies beside the files; lighttpd serves no name that starts with a dot.
_MARKERS = ".releases"

#: Last line of an archive that has come to its end; no line of base64.
_WHOLE = "-- whole --"


class StaticRelease(FactBase[bool]):
    """Whether a release's static files are here, complete."""

    def command(self, target: str, release: str) -> str:
        marker = shlex.quote(f"{target}/{_MARKERS}/{release}")
        return f"test -f {marker} && echo yes || echo no"

    @staticmethod
    def default() -> bool:
        return False

    def process(self, output: list[str]) -> bool:
        return output == ["yes"]


class StaticArchive(FactBase[list[str]]):
    """A directory's files as lines of base64, a compressed tar archive; no line if it is not whole."""

    def command(self, source: str) -> str:
        # Long lines: each one is an event to pyinfra. `pipefail`, or a failed tar is a short archive.
        # Never a failed fact: pyinfra would end the run from within another host's operation.
        pack = (
            f"tar -C {shlex.quote(source)} --hard-dereference -cf - . | gzip -1 | base64 -w 65536"
        )
        script = f"set -o pipefail; {pack} && echo '{_WHOLE}' || true"
        return f"bash -c {shlex.quote(script)}"

    @staticmethod
    def default() -> list[str]:
        return []

    def process(self, output: list[str]) -> list[str]:
        return output[:-1] if output[-1] == _WHOLE else []


# Each file is written beside its place and renamed, so that a visitor gets the old one or the new
# one; a file that is there already stays, with its date, so that browsers' copies stay good. Links
# are left out: lighttpd follows none.
_MERGE = r"""
import base64, os, shutil, sys, tarfile, tempfile

target, release = sys.argv[1:]
os.umask(0o022)


def merge(archive):
    new = 0
    for member in archive:
        parts = [part for part in member.name.split("/") if part not in ("", ".")]
        if not member.isfile() or not parts:
            continue
        if ".." in parts:
            sys.exit("the archive leads out of its directory: %r" % member.name)
        path = os.path.join(target, *parts)
        new += place(path, archive.extractfile(member), member)
    return new


def place(path, source, member):
    if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) == member.size:
        with open(path, "rb") as old:
            if all(old.read(len(block)) == block for block in iter(lambda: source.read(1 << 20), b"")):
                return 0
        source.seek(0)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".tierstack-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(source, file)
            os.fchmod(file.fileno(), 0o644)
        os.utime(temporary, (member.mtime, member.mtime))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return 1


with tempfile.TemporaryFile(dir=target) as packed:
    base64.decode(sys.stdin.buffer, packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed, mode="r:gz") as archive:
        new = merge(archive)
os.sync()
os.makedirs(os.path.join(target, MARKERS), exist_ok=True)
with open(os.path.join(target, MARKERS, release), "w") as marker:
    marker.write("complete\n")
    marker.flush()
    os.fsync(marker.fileno())
print("%d new static files" % new)
""".replace("MARKERS", repr(_MARKERS))


@operation()
def static_release(
    release: str, source_host: str, source: str, target: str
) -> Generator[PyinfraCommand, None, None]:
    """
    Merge a release's static files into what this host serves; earlier releases' files stay.

    Args:
        release: its id; a marker of that name says that its files are all here.
        source_host: name of the host that has them.
        source: the directory that holds them there.
        target: the directory to merge them into here; must exist.
    """
    if host.get_fact(StaticRelease, target=target, release=release):
        return
    if not in_this_run(source_host):
        yield Refuse(
            f"{host.name}: the static files of release {release} are not here, and {source_host},"
            f" which collected them, has no part in this run;"
            f" add it: --limit {host.name} --limit {source_host}"
        )
        return
    archive: list[str] = []
    if executing():
        source_of = inventory.get_host(source_host)
        archive = ask_all([source_of], StaticArchive, source=source)[source_host]
        if not archive:
            yield Refuse(
                f"{host.name}: the static files of release {release} could not be read from {source}"
                f" on {source_host}; look there, then run the deploy again"
            )
            return
    arguments = " ".join(shlex.quote(argument) for argument in (_MERGE, target, release))
    effect = Effect(notes=(f"brings release {release} from {source_host}",))
    yield Foreseen(f"python3 -c {arguments}", effect=effect, _stdin=archive)


class LinkTarget(FactBase[str]):
    """Where a symbolic link points, or an empty string."""

    def command(self, path: str) -> str:
        return f"readlink {shlex.quote(path)} || true"

    @staticmethod
    def default() -> str:
        return ""


@operation()
def only_release(current: str, path: str, media_host: str) -> Generator[PyinfraCommand, None, None]:
    """
    Refuse a release whose static files no host of this run could serve.

    Args:
        current: symbolic link to the release that serves.
        path: the release's directory.
        media_host: a host that would bring its static files.
    """
    if host.get_fact(LinkTarget, path=current) != path:
        yield Refuse(
            f"{host.name}: this release is new, and {media_host}, which serves its static files, has"
            f" no part in this run; deploy without --limit, or with --limit {media_host} as well"
        )
