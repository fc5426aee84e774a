"""Model families: one file each; `_network.py` is the contract."""
