"""Open the device that a name or an address stands for: `local`, `ssh://pi@pi4.local:22`, `qemu:aarch64`."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.devices._device import Device
from compress import plugins
from compress.errors import CompressError
from compress.recipe import DeviceSection

_ADDRESS = re.compile(r"(?P<name>[a-z][a-z0-9_]*):.+")


def open_device(text: str, **options: Any) -> Device:
    """Return the device of a name, or of an address, whose scheme is the name.

    Args:
        text: Name or address.
        options: Further options of the device.

    Raises:
        CompressError: There is no such device, it takes no address or needs one, or has no such option.
    """
    found = _ADDRESS.fullmatch(text)
    name = found["name"] if found else text
    known = plugins.describe("devices", name).options
    if found and "at" not in known:
        raise CompressError(f"{text}: the device {name!r} takes no address; write {name}")
    if not found and "at" in known:
        raise CompressError(f"{text}: says no address; {known['at'].description}")
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise CompressError(
            f"{text}: the device {name!r} has no option {unknown[0]!r}; {plugins.suggest_name(unknown[0], list(known))}"
        )
    device: Device = plugins.load("devices", name)(**({"at": text} if found else {}), **options)
    return device


def open_section(section: DeviceSection) -> Device:
    """Return the device of a section of a recipe.

    Raises:
        CompressError: Its address is that of another device, or is none.
    """
    options = section.options()
    address = options.pop("at", None)
    if address is not None and not str(address).startswith(f"{section.device}:"):
        raise CompressError(f"{address}: is no address of the device {section.device!r}; write {section.device}:...")
    return open_device(section.device if address is None else str(address), **options)
