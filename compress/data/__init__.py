"""Data sources: one file each; `_source.py` is the contract."""
