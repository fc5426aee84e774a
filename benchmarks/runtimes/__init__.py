"""Inference runtimes: one file each; `Runtime` is the contract."""

from benchmarks.runtimes._runtime import Runtime

__all__ = ["Runtime"]
