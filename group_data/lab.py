"""What only the lab's hosts get: `inventories/lab.py`."""

from tierstack.lab import kernel_has_nfs

# Containers share this machine's kernel, and few kernels have NFS built in.
media = dict(share="nfs" if kernel_has_nfs() else "sshfs")
