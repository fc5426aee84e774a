"""Distillation methods: one file each; `_method.py` is the contract."""
