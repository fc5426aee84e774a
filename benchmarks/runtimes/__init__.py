"""Inference runtimes: one file each; `_runtime.py` is the contract."""
