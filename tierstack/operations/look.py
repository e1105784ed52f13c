"""Runs on a host, never imported on the controller: says how the host's tiers are.

Sent over standard input with one request; prints one JSON object. It only reads, and
no question waits longer than a few seconds.
"""

import http.client
import json
import os
import re
import socket
import subprocess
import sys  # noqa: F401 -- for the line that calls main

TIMEOUT_S = 3
CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.S)


def main(request):
    found = {"units": {unit: active(unit) for unit in request["units"]}}
    found["drain"] = os.path.exists("/run/tierstack/drain")
    found["hold"] = hold()
    found["certificates"] = certificates(request["tiers"])
    found["firewall"] = firewall()
    found["other_firewall"] = other_firewall()  # noqa: F821 -- sent before this one
    if "web" in request["tiers"]:
        found["web"] = http_status(request["address"], request["web_port"], "/-/health")
        found["releases"] = {site: release(site) for site in request["sites"]}
        found["noted"] = noted()
        found["database_hosts"] = sorted(set().union(*map(database_hosts, request["sites"])))
    if {"web", "media", "storage"} & set(request["tiers"]):
        found["mounts"] = {site: mounted("/srv/%s/media" % site) for site in request["sites"]}
        found["marks"] = {site: mark(site, "/srv/%s/media" % site) for site in request["sites"]}
    if "storage" in request["tiers"]:
        found["share"] = answers(request["address"], request["share_port"])
    if "media" in request["tiers"]:
        found["media"] = http_status(request["address"], request["media_port"], "/-/media-health")
    if "cache" in request["tiers"]:
        found["cache"] = memcached(request["address"], request["cache_port"])
    print(json.dumps(found))


def run(*command):
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    return done.returncode == 0, done.stdout.strip()


def active(unit):
    return run("systemctl", "is-active", unit)[1]


def http_status(address, port, path):
    """Return the status of a page, or 0 when nothing answers."""
    connection = http.client.HTTPConnection(address, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def hold():
    """Return who holds the node back and why, or ""."""
    try:
        with open("/etc/tierstack/hold") as file:
            return " ".join(file.read().split()) or "no reason given"
    except OSError:
        return ""


def firewall():
    """Return what is wrong with the firewall: "gone", or "closed" but for SSH; "" when it is there."""
    good, said = run("/usr/sbin/nft", "list", "chain", "inet", "tierstack", "input")
    if not good or "policy drop" not in said:
        return "gone"
    return "" if active("tierstack-firewall") == "active" else "closed"


def certificates(tiers):
    """Return the certificates that a host shows or trusts, by what they are; keys stay in their files."""
    paths = {
        "front": ("balancer", "/etc/haproxy/tierstack/front.pem"),
        "database": ("db", "/etc/tierstack/postgresql/server.crt"),
        "CA": ("web", "/etc/tierstack/cluster-ca.pem"),
    }
    found = {}
    for name, (tier, path) in paths.items():
        if tier in tiers:
            try:
                with open(path) as file:
                    found[name] = CERTIFICATE.findall(file.read())
            except OSError:
                pass
    return found


def noted():
    """Return the sites that this host has noted as served."""
    try:
        with open("/var/lib/tierstack/cluster.json") as file:
            return [site["name"] for site in json.load(file)["sites"] if site["served"]]
    except (OSError, ValueError, KeyError):
        return []


def release(site):
    try:
        return os.path.basename(os.readlink("/srv/%s/current" % site))
    except OSError:
        return ""


def database_hosts(site):
    """Return the addresses where a site that is served here has its database."""
    try:
        with open("/etc/tierstack/sites/%s/current/tierstack_settings.py" % site) as file:
            named = re.search("^_DATABASE = .*'HOST': '([^']+)'", file.read(), re.M)
    except OSError:
        return set()
    return set(named.group(1).split(",")) if named else set()


def mounted(path):
    """Ask the file system in a process of its own: a dead server must not hang this one."""
    good, said = run("stat", "-f", "-c", "%T", path)
    return good and said in ("fuseblk", "fuse", "nfs", "nfs4")


def mark(site, path):
    """Return what MEDIA_ROOT is noted as on this host's own disk, or ""; a mount is asked nothing."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split() for line in file]
    kinds = [line[line.index("-") + 1] for line in mounts if line[4] == path]
    if kinds and kinds[-1].startswith(("fuse", "nfs")):
        return ""
    try:
        with open("/var/lib/tierstack/uploads/" + site) as file:
            role, was = file.read().split()
    except (OSError, ValueError):
        return ""
    # Another directory has that path while its disk is not mounted.
    birth, _, inode = run("stat", "-L", "-c", "%.9W %i", path)[1].partition(" ")
    return role if was == (birth if birth.strip("0.") else inode) else ""


def answers(address, port):
    try:
        socket.create_connection((address, port), TIMEOUT_S).close()
        return True
    except OSError:
        return False


def memcached(address, port):
    try:
        with socket.create_connection((address, port), TIMEOUT_S) as connection:
            connection.sendall(b"version\r\n")
            return connection.recv(99).startswith(b"VERSION")
    except OSError:
        return False
