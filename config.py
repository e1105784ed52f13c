"""pyinfra reads this first: a path that leads to no inventory ends the run, and not well.

pyinfra itself takes it for no hosts, asks none of them, and says that all went well.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tierstack.engine import refuse_missing_inventory

refuse_missing_inventory()
