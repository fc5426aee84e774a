"""Start, leave alone and fetch jobs on boards, as `compress bench` is asked to."""

from __future__ import annotations

from typing import Any

from benchmarks.devices import Device, open_device
from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.ledger import read_job
from compress.errors import CompressError
from compress.events import Events


def choose_device(
    address: str, *, limits: dict[str, Any], detach: bool, wait: bool, memo: dict[str, Any], events: Events
) -> Device:  # fmt: skip
    """Return the device of a name or address, told what to do with its job.

    Args:
        address: Name or address.
        limits: Options of the device, such as its cores.
        detach: Whether to leave the job alone once it runs.
        wait: Whether to wait while the board works for somebody else.
        memo: What is noted with the job, so that it can be fetched by its number alone.
        events: Where people are told.

    Raises:
        CompressError: There is no such device, or it is no board.
    """
    device = open_device(address, **limits)
    if isinstance(device, Remote):
        device.detach, device.memo, device.say = detach, memo, events.say
        device.wait = device.wait and wait
    elif detach or not wait:
        raise CompressError(f"{address}: is no board, so no job is left there or waited for; give an address such as ssh://pi4")
    return device


def attach_job(job: str, *, events: Events) -> tuple[Device, dict[str, Any]]:
    """Return the device that fetches a job, and what was noted with it.

    Args:
        job: Its number.
        events: Where people are told.

    Raises:
        CompressError: No such job was started from here.
    """
    address, memo = read_job(job)
    if not memo:
        raise CompressError(f"job {job}: was not started by compress bench, so its files are not known here; start it again")
    device = open_device(address)
    if not isinstance(device, Remote):
        raise CompressError(f"{address}: is no board any more, so nothing can be fetched from it")
    device.attach, device.memo, device.say = job, memo, events.say
    return device, memo
