"""Deployment formats: one file each; `_exporter.py` is the contract, `_verify.py` the gate, `_bundle.py` what is handed over."""
