"""Places to run: one file each; `Device` is the contract, `Board` that of one that keeps things of ours."""

from benchmarks.devices._address import open_device
from benchmarks.devices._device import Board, BoardJob, Detached, Device, Progress, Say

__all__ = ["Board", "BoardJob", "Detached", "Device", "Progress", "Say", "open_device"]
