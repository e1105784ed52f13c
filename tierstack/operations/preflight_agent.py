"""Runs on a host, never imported on the controller: says what the host is, and what is in a deploy's way.

Sent over standard input with one request; prints one JSON object. It only reads: no file stays, no
cache is written. It also runs on systems that are refused, so it is plain Python of any version 3.
"""

import errno
import glob
import grp
import json
import os
import pwd
import re
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys  # noqa: F401 -- for the line that calls main
import tempfile
import time

ECHO_TRIES = 3
ECHO_WAIT_S = 0.5
CONNECT_WAIT_S = 3
FETCH_WAIT_S = 10
SHOWN_LINKS = 5
DATABASE_CA = "/etc/tierstack/postgresql/ca.crt"
#: Kinds of interfaces as ip(8) names them, of which packets arrive inside of other packets.
TUNNELS = (
    "wireguard", "tun", "vxlan", "geneve", "l2tp_eth", "gre", "gretap", "ip6gre", "ip6gretap",
    "ipip", "sit", "ip6tnl", "vti", "vti6", "xfrm",
)  # fmt: skip
ANSWERS = (0, errno.ECONNREFUSED)
#: Two of them are a change of part that was cut off: the stronger one counts.
OLD_MARKS = ("home", "leaving", "copy")
APT = [
    "apt-get", "--no-install-recommends",
    "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",  # Kept in memory.
]  # fmt: skip


def main(request):
    began = time.time()
    found = host()
    # What follows would not mean much elsewhere, and needs root.
    if found["root"] and found["systemd"] and found["codename"] == request["codename"]:
        found["disks"] = {path: disk(path) for path in request["paths"]}
        found["addresses"] = addresses()
        found["database"] = database()
        found["database_hosts"] = database_hosts()
        found["machine"] = read("/etc/machine-id") + read("/proc/sys/kernel/random/boot_id")
        found["ports"] = holders(request["ports"])
        found["listening"] = listening()
        found["way_in"] = way_in()
        found["other_firewall"] = other_firewall()  # noqa: F821 -- sent before this one
        found["silent"] = silent(request["peers"])
        found["accounts"] = accounts(request["accounts"])
        found["note"] = note()
        found["ca"] = read("/etc/tierstack/cluster-ca.pem") or read(DATABASE_CA)
        found["sites"] = sorted(
            os.path.basename(path) for path in glob.glob("/etc/tierstack/sites/*")
        )
        known = {site["name"] for site in found["note"].get("sites", [])} | set(request["media"])
        found["media"] = {site: media(site, "/srv/%s/media" % site) for site in sorted(known)}
        found["links"] = links(request["served"])
        found["kernel_lacks"] = kernel_lacks(request["modules"], found["container"])
        found["share_peers"] = peers_of(request["share_port"])
        kind = "container" if found["container"] else "machine"
        found["packages"] = packages(request["packages"][kind])
    found["clock"] = [began, time.time()]
    print(json.dumps(found))


def host():
    release = {}
    for line in read("/etc/os-release").splitlines():
        key, _, value = line.partition("=")
        release[key] = value.strip("\"'")
    memory = re.search(r"MemTotal:\s+(\d+)", read("/proc/meminfo"))
    ports = {int(line.split()[1]) for line in run("/usr/sbin/sshd", "-T") if line[:5] == "port "}
    if os.environ.get("SSH_CONNECTION"):
        ports.add(int(os.environ["SSH_CONNECTION"].split()[3]))
    exports = read("/etc/exports.d/tierstack.exports")
    sources = re.search('from="([^"]*)"', read("/etc/tierstack/share_authorized_keys"))
    return {
        "system": release.get("PRETTY_NAME", "unknown"),
        "codename": release.get("VERSION_CODENAME", ""),
        "memory_mb": int(memory.group(1)) // 1024 if memory else 0,
        "container": run("systemd-detect-virt", "--container") not in (["none"], []),
        "systemd": os.path.isdir("/run/systemd/system"),
        "root": os.geteuid() == 0,
        "ssh_ports": sorted(ports),
        "firewall": rules(),
        "stamps": [os.path.basename(path)[:-6] for path in glob.glob("/var/lib/tierstack/*.stamp")],
        "share_clients": {
            **dict(re.findall(r" ([\d.]+)\((rw|ro),", exports)),
            **dict.fromkeys(sources.group(1).split(",") if sources else [], "rw"),
        },
    }


def rules():
    """Return the rules of our firewall that follow from the inventory, by chain."""
    found, chain = {"input": [], "output": []}, ""
    # What is loaded is what was kept last; on trial, the host may have gone down meanwhile.
    text = read("/etc/tierstack/nftables.good") or read("/etc/tierstack/nftables.conf")
    for line in text.splitlines():
        if line.split()[:1] == ["chain"]:
            chain = line.split()[1]
        elif " accept comment " in line:
            found[chain].append(line.strip())
    return found


def disk(path):
    """Return what the file system has that a path lies on, or will lie on."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    system = os.statvfs(path)
    while not os.path.ismount(path):
        path = os.path.dirname(path)
    return {
        "mount": path,
        "free_mb": system.f_bavail * system.f_frsize // 2**20,
        # Some file systems count none.
        "free_inodes": system.f_favail if system.f_files else None,
        "read_only": bool(system.f_flag & os.ST_RDONLY),
        "noexec": bool(system.f_flag & os.ST_NOEXEC),
    }


def addresses():
    """Return the host's own IPv4 addresses. Source: Linux, net/ipv4/fib_trie.c."""
    found, last = set(), ""
    for line in read("/proc/net/fib_trie").splitlines():
        named = re.search(r"-- ([\d.]+)", line)
        if named:
            last = named.group(1)
        elif "/32 host LOCAL" in line and not last.startswith("127."):
            found.add(last)
    return sorted(found)


def database():
    """Return whether a database of ours lies here, and whether it is only a copy."""
    data, config = "/var/lib/postgresql/15/main", "/etc/postgresql/15/main"
    return {
        "present": os.path.exists(data + "/PG_VERSION"),
        "configured": os.path.exists(config + "/postgresql.conf"),
        "ours": os.path.exists(config + "/conf.d/50-tierstack.conf"),
        "standby": os.path.exists(data + "/standby.signal"),
    }


def database_hosts():
    """Return the addresses where the sites that Apache serves have their database."""
    served = "".join(read(path) for path in glob.glob("/etc/apache2/sites-enabled/*"))
    found = set()
    for path in glob.glob("/etc/tierstack/sites/*/*/tierstack_settings.py"):
        if os.path.dirname(path) in served:
            named = re.search("^_DATABASE = .*'HOST': '([^']+)'", read(path), re.M)
            found.update(named.group(1).split(",") if named else [])
    return sorted(found)


def note():
    """Return what the host has noted of its cluster, {} if it was never deployed to."""
    try:
        return json.loads(read("/var/lib/tierstack/cluster.json"))
    except ValueError:
        return {}


def media(site, path):
    """Return what this host's own disk holds of MEDIA_ROOT, and where it mounts it from."""
    source = re.search(r"^SERVER=(\S+)", read("/etc/tierstack/share_server"), re.M)
    mounts = [line.split() for line in read("/proc/self/mountinfo").splitlines()]
    kinds = [line[line.index("-") + 1] for line in mounts if line[4] == path]
    # A mount is asked nothing: its server may be dead.
    remote = bool(kinds) and kinds[-1].startswith(("fuse", "nfs"))
    own = not remote and os.path.isdir(path)
    files = False
    if own:
        # Not all names: as many as a site likes would fill this host's memory.
        known = {"lost+found", *(".tierstack-" + mark for mark in OLD_MARKS)}
        with os.scandir(path) as entries:
            files = any(entry.name not in known for entry in entries)
    # As media_agent.py notes it: the part, and which directory that was.
    note = read("/var/lib/tierstack/uploads/" + site).split()
    there = "" if remote else identity(path)
    looks = own and not note
    old = [mark for mark in OLD_MARKS if looks and old_mark(path, ".tierstack-" + mark)]
    return {
        "mark": note[0] if note[1:] == [there] else "".join(old[:1]),
        "old": bool(old),
        "files": files,
        "noted": note[:1] == ["home"] or os.path.exists("/var/lib/tierstack/media-home-" + site),
        "source": source.group(1) if source else "",
    }


def links(served):
    """
    Return symbolic links that servers of files would meet, and what they lead to, "" for nothing.

    Args:
        served: directories, and whether to look for links that root has made in them: a site's own
            account may make links, and nobody shall stop a deploy by them.
    """
    mounts = [line.split() for line in read("/proc/self/mountinfo").splitlines()]
    kinds = {line[4]: line[line.index("-") + 1] for line in mounts}
    found = []
    for path, look_inside in sorted(served.items()):
        parts = path.split("/")
        ways = ["/".join(parts[:end]) for end in range(2, len(parts) + 1)]
        # A mount is asked nothing: its server may be dead.
        found += [way for way in ways if way not in kinds and os.path.islink(way)]
        if (
            look_inside
            and not kinds.get(path, "").startswith(("fuse", "nfs"))
            and os.path.isdir(path)
        ):
            with os.scandir(path) as entries:
                inside = [entry.path for entry in entries if is_link_of_root(entry)]
            found += sorted(inside)[:SHOWN_LINKS]
    targets = {path: os.path.realpath(path) for path in found}
    return {path: target if os.path.exists(target) else "" for path, target in targets.items()}


def is_link_of_root(entry):
    """Return whether a name is a link that root has made; the site may take it away meanwhile."""
    try:
        return entry.is_symlink() and entry.stat(follow_symlinks=False).st_uid == 0
    except OSError:
        return False


def identity(path):
    """Return which directory it is, as media_agent.py notes it: by its birth, or its inode's number."""
    birth, _, inode = "".join(run("stat", "-L", "-c", "%.9W %i", path)).partition(" ")
    return birth if birth.strip("0.") else inode


def old_mark(path, name):
    """Return whether an earlier version has left this mark in MEDIA_ROOT: a file that only root can make."""
    try:
        found = os.lstat(os.path.join(path, name))
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == 0 and found.st_nlink == 1


def accounts(wanted):
    """
    Return the accounts and the groups that have one of these names or numbers.

    Args:
        wanted: name to number, of an account and of its group.
    """
    ours = read("/etc/sysusers.d/tierstack.conf").splitlines()
    found = {"users": [], "groups": []}
    for user in pwd.getpwall():
        if user.pw_name in wanted or user.pw_uid in wanted.values():
            found["users"].append(
                {
                    "name": user.pw_name,
                    "number": user.pw_uid,
                    "home": user.pw_dir,
                    "groups": groups_of(user),
                    "ours": any(line.split()[:2] == ["u", user.pw_name] for line in ours),
                }
            )
    for group in grp.getgrall():
        if group.gr_name in wanted or group.gr_gid in wanted.values():
            found["groups"].append({"name": group.gr_name, "number": group.gr_gid})
    return found


def groups_of(user):
    """Return the names of an account's groups, its primary one first."""
    found = [group for group in grp.getgrall() if group.gr_gid == user.pw_gid]
    found += [group for group in grp.getgrall() if user.pw_name in group.gr_mem]
    return list(dict.fromkeys(group.gr_name for group in found))


def holders(wanted):
    """
    Return who listens where others want to.

    Args:
        wanted: port to the addresses that it is wanted on; "0.0.0.0" is every address.
    """
    found = {}
    for protocol, at, port, inode in bound():
        here = wanted.get(str(port), []) if protocol == "tcp" else []
        if here and ({at, "0.0.0.0"} & set(here) or at in ("0.0.0.0", "::")):
            found[inode] = {"port": port, "process": "", "pid": 0, "unit": ""}
    for inode, owner in owners(set(found)).items():
        found[inode].update(owner)
    return list(found.values())


def listening():
    """Return what is listened on beyond loopback: once a port, by whom, and whether that is a tunnel."""
    entries = {
        inode: {"protocol": protocol, "port": port, "process": "", "pid": 0, "unit": ""}
        for protocol, at, port, inode in bound()
        if not at.startswith("127.") and at != "::1"
    }
    for inode, owner in owners(set(entries)).items():
        entries[inode].update(owner)
    first, last = map(int, read("/proc/sys/net/ipv4/ip_local_port_range").split() or (0, 0))
    links = tunnels()
    found = {}
    for entry in entries.values():
        kernels = not entry["pid"] and entry["protocol"] == "udp"
        entry["tunnel"] = bool(links) and (kernels or holds_tunnel(entry["pid"]))
        # There a program that only asks others has a port for a moment.
        momentary = entry["protocol"] == "udp" and first <= entry["port"] <= last
        if entry["tunnel"] or not momentary:
            found.setdefault((entry["protocol"], entry["port"]), entry)
    return [entry for _, entry in sorted(found.items())]


def bound():
    """Return protocol, address, port and inode of every socket that takes what comes from anywhere."""
    for protocol, state in (("tcp", "0A"), ("udp", "07")):
        for table in (protocol, protocol + "6"):
            for line in read("/proc/net/" + table).splitlines()[1:]:
                fields = line.split()
                digits, port = fields[1].split(":")
                if fields[3] == state:
                    yield protocol, address_of(digits), int(port, 16), fields[9]


def owners(inodes):
    """Return which process has a socket, the oldest one of several, by inode."""
    found = {}
    pids = map(int, filter(str.isdigit, os.listdir("/proc"))) if inodes else ()
    for pid in sorted(pids, reverse=True):
        for inode in sockets(pid) & inodes:
            # What systemd holds for a service belongs to the service.
            if pid != 1 or inode not in found:
                name = read("/proc/%d/comm" % pid).strip()
                found[inode] = {"process": name, "pid": pid, "unit": unit_of(pid)}
    return found


def tunnels():
    """Return the kind of each network interface that is a tunnel, by name."""
    found = {}
    for text in run("ip", "-d", "-o", "link", "show"):
        name = re.match(r"\d+: ([^:@]+)", text)
        kind = re.search(r"\s(%s)\s" % "|".join(TUNNELS), text)
        if name and kind:
            found[name.group(1)] = kind.group(1)
    return found


def holds_tunnel(pid):
    """Return whether a process moves the packets of a tun or tap interface."""
    try:
        links = ["/proc/%d/fd/%s" % (pid, name) for name in os.listdir("/proc/%d/fd" % pid)]
        return any(os.readlink(link) == "/dev/net/tun" for link in links)
    except OSError:
        return False


def way_in():
    """Return the interface by which this connection comes, and what kind of tunnel that is, or ""."""
    pid, peer = os.getpid(), ""
    # sudo takes the variable away: one of the processes above has it.
    while pid > 1 and not peer:
        found = re.search(r"(?:^|\0)SSH_CONNECTION=(\S+)", read("/proc/%d/environ" % pid))
        peer = found.group(1) if found else ""
        parent = re.search(r"^PPid:\s+(\d+)", read("/proc/%d/status" % pid), re.M)
        pid = int(parent.group(1)) if parent else 1
    route = re.search(r"\sdev (\S+)", " ".join(run("ip", "route", "get", peer))) if peer else None
    name = route.group(1) if route else ""
    return {"interface": name, "kind": tunnels().get(name, "")}


def kernel_lacks(modules, container):
    """
    Return the file systems that the kernel has not, and cannot load.

    Args:
        modules: by file system, the module that it is in.
        container: whether the host is one: it loads no modules, whatever it has of them.
    """
    has = read("/proc/filesystems").split()
    return sorted(
        kind
        for kind, module in modules.items()
        if kind not in has and (container or not loads(module))
    )


def loads(module):
    """Return whether a module is there to be loaded; also where nothing can tell. Source: modprobe(8)."""
    try:
        return subprocess.run(["modprobe", "-n", "-q", module], **PIPES).returncode == 0
    except OSError:
        return True


def peers_of(port):
    """Return the IPv4 addresses that have a connection to a port of this host."""
    found = set()
    for line in read("/proc/net/tcp").splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and int(fields[1].split(":")[1], 16) == port:
            found.add(address_of(fields[2].split(":")[0]))
    return sorted(found)


def address_of(digits):
    """Return an address of /proc/net/tcp: words in the machine's own order, in hexadecimal."""
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    packed = struct.pack("=%dI" % len(words), *words)
    if len(packed) == 4:
        return socket.inet_ntoa(packed)
    if packed[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntoa(packed[12:])
    return socket.inet_ntop(socket.AF_INET6, packed)


def sockets(pid):
    found = set()
    try:
        for name in os.listdir("/proc/%d/fd" % pid):
            target = os.readlink("/proc/%d/fd/%s" % (pid, name))
            if target.startswith("socket:["):
                found.add(target[8:-1])
    except OSError:
        pass  # The process, or its file, is gone.
    return found


def unit_of(pid):
    """Return the systemd unit of a process. Source: cgroups(7), "/proc files"."""
    unit = re.search(
        r"^\d+:(?:name=systemd)?:.*/([^/\n]+\.(?:service|scope))$",
        read("/proc/%d/cgroup" % pid),
        re.M,
    )
    return unit.group(1) if unit else ""


def silent(peers):
    """
    Return the peers that do not answer: neither to an echo request, nor on one of their ports.

    The echo comes first, as a connection leaves a line in the journal of the peer's SSH server.

    Args:
        peers: name to {"address": "10.0.0.21", "ports": [5432, 22]}.
    """
    waiting = {peer["address"]: name for name, peer in peers.items()}
    try:
        echo(waiting)
    except OSError:
        pass  # A container that may not: the ports tell.
    return sorted(
        name for address, name in waiting.items() if not connects(address, peers[name]["ports"])
    )


def echo(waiting):
    """Take those out of a dictionary by address that answer an echo request."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for number in range(ECHO_TRIES):
            for address in waiting:
                try:
                    raw.sendto(echo_request(number), (address, 0))
                except OSError:
                    pass  # No way there: the same as no answer.
            end = time.monotonic() + ECHO_WAIT_S
            while waiting and select.select([raw], [], [], max(0, end - time.monotonic()))[0]:
                packet, (address, _) = raw.recvfrom(2048)
                reply = packet[(packet[0] & 15) * 4 :]
                if reply[:1] == b"\0" and reply[4:6] == echo_request(0)[4:6]:
                    waiting.pop(address, None)


def echo_request(number):
    """Return an ICMP message. Source: RFC 792, "Echo"; RFC 1071."""
    body = struct.pack("!HH", os.getpid() & 0xFFFF, number)
    total = 0x0800 + sum(struct.unpack("!HH", body))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!BBH", 8, 0, ~(total + (total >> 16)) & 0xFFFF) + body


def connects(address, ports):
    """Return whether one of the ports accepts a connection or refuses it: then there is a way."""
    tried, pending, answered = [], [], False
    for port in ports:
        connection = socket.socket()
        connection.setblocking(False)
        tried.append(connection)
        status = connection.connect_ex((address, port))
        answered = answered or status in ANSWERS
        if status == errno.EINPROGRESS:
            pending.append(connection)
    end = time.monotonic() + CONNECT_WAIT_S
    while pending and not answered and time.monotonic() < end:
        ended = select.select([], pending, [], max(0, end - time.monotonic()))[1]
        answered = any(
            one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in ANSWERS for one in ended
        )
        pending = [one for one in pending if one not in ended]
    for connection in tried:
        connection.close()
    return answered


def packages(names):
    """
    Return what keeps apt from installing packages, as far as can be seen without installing them.

    With lists of packages, apt itself says whether it knows them all and what it would fetch; the
    sources that it would fetch from are asked for the one file that each has.
    """
    listed = run("dpkg-query", "-W", "-f=${Package} ${db:Status-Status}\n", *names)
    missing = sorted(
        set(names) - {line.split()[0] for line in listed if line.endswith(" installed")}
    )
    found = {"missing": missing, "unknown": [], "said": "", "sources": {}}
    if not missing:
        return found
    lists = glob.glob("/var/lib/apt/lists/*Packages*")
    files = []
    if lists:
        done = subprocess.run([*APT, "--print-uris", "install", *missing], **PIPES)
        files = re.findall(r"^'(\S+)'", done.stdout, re.M)
        errors = re.findall(r"^E: (.+)", done.stderr, re.M)
        unknown = [
            re.search(r"locate package (\S+)|Package '(.+)' has no", line) for line in errors
        ]
        found["unknown"] = sorted({one.group(1) or one.group(2) for one in unknown if one})
        if errors and not found["unknown"]:
            found["said"] = errors[-1]
        if errors:
            return found
    # As the operation that installs them: a list older than a day is fetched again.
    outdated = all(time.time() - os.path.getmtime(path) > 86400 for path in lists)
    releases = set(
        re.findall(
            r"^'(https?:\S+/InRelease)'", "\n".join(run(*APT, "--print-uris", "update")), re.M
        )
    )
    bases = {release: re.split(r"/dists/|/(?:\./)?InRelease$", release)[0] for release in releases}
    needed = [
        one for one in releases if outdated or any(file.startswith(bases[one]) for file in files)
    ]
    if outdated and not releases:
        found["said"] = (
            "no package source is named in /etc/apt/sources.list or /etc/apt/sources.list.d"
        )
    found["sources"] = unreadable(needed)
    return found


def unreadable(files):
    """Return why package sources cannot be read, in apt's words; proxies and keys are apt's own."""
    folder = tempfile.mkdtemp(prefix="tierstack-")
    options = ["-o", "Acquire::Retries=0"]
    for scheme in ("http", "https"):
        options += ["-o", "Acquire::%s::Timeout=%d" % (scheme, FETCH_WAIT_S)]
    try:
        asked = []
        for number, file in enumerate(sorted(files)):
            target = os.path.join(folder, str(number))
            command = ["/usr/lib/apt/apt-helper", *options, "download-file", file, target]
            asked.append((file, subprocess.Popen(command, **PIPES)))
        found = {}
        for file, process in asked:
            said = process.communicate()[1]
            if process.returncode:
                why = re.search(r"Failed to fetch \S+\s+(.+)", said)
                found[masked(file)] = masked(why.group(1) if why else said).strip()
        return found
    finally:
        shutil.rmtree(folder)


def masked(text):
    """Hide what a source's URL may carry: the account of a private archive."""
    return re.sub(r"//[^/@\s]+@", "//…@", text)


PIPES = {
    "stdin": subprocess.DEVNULL,
    "stdout": subprocess.PIPE,
    "stderr": subprocess.PIPE,
    "universal_newlines": True,
    "env": dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive"),
}


def run(*command):
    """Return the lines that a program prints, none if there is no such program."""
    try:
        return subprocess.run(command, **PIPES).stdout.splitlines()
    except OSError:
        return []


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
