"""Places to run: one file each; `Device` is the contract."""

from benchmarks.devices._device import Device, Progress

__all__ = ["Device", "Progress"]
