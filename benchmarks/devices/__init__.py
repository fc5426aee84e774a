"""Places to run: one file each; `_device.py` is the contract."""
