"""One site for the five arrangements: it moves from each to the next, and stays what it is."""

from tierstack.lab import kernel_has_nfs

# Containers share this machine's kernel, and few kernels have NFS built in.
media = dict(share="nfs" if kernel_has_nfs() else "sshfs")

sites = [
    dict(
        name="example",
        source="../../example",
        settings="mysite.settings",
        domains=["example.test", "www.example.test"],
    ),
]
