"""Places to run: one file each; `Device` is the contract, `Board` that of one that keeps things of ours."""

from benchmarks.devices._address import open_device, open_section
from benchmarks.devices._device import Board, BoardJob, Detached, Device, Progress, Say, is_emulated, list_stable_facts
from benchmarks.devices._results import find_wrong_series
from benchmarks.devices._runner_output import RunnerOutput

__all__ = [
    "Board",
    "BoardJob",
    "Detached",
    "Device",
    "Progress",
    "RunnerOutput",
    "Say",
    "find_wrong_series",
    "is_emulated",
    "list_stable_facts",
    "open_device",
    "open_section",
]
