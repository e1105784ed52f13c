"""The model: a validated cluster, its flows and its sizes. Pure: no host, no SSH, no pyinfra."""

from tierstack.model.cluster import TIERS, UNITS, Cluster, Flow, Host, Opening, Site
from tierstack.model.errors import CapacityError, InventoryError, Mistake, TierstackError

__all__ = [
    "TIERS",
    "UNITS",
    "CapacityError",
    "Cluster",
    "Flow",
    "Host",
    "InventoryError",
    "Mistake",
    "Opening",
    "Site",
    "TierstackError",
]
