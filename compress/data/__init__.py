"""Data sources: one file each; `_dataset.py` is the contract."""
