"""What only Vagrant's machines get: `inventories/vagrant.py`."""

from tierstack.vagrant import media_share

media = dict(share=media_share())
