"""Devices of a recipe: what contradicts, before anything is trained, and whether they answer."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from compress import plugins
from compress.errors import CompressError, Unreachable
from compress.recipe import DeviceSection, Recipe

if TYPE_CHECKING:
    from benchmarks.devices import Device

LOCAL = "local"


def list_further(recipe: Recipe) -> list[tuple[DeviceSection, Device, str]]:
    """Return the devices beside this machine, each with its section and its name in reports.

    This machine under another name is one of them, as it may be held to fewer cores there.

    Raises:
        CompressError: One cannot be opened.
    """
    from benchmarks.devices import open_section

    opened = [(section, open_section(section)) for section in recipe.measure.devices]
    named = [(section, device, section.name or device.name) for section, device in opened]
    return [(section, device, name) for section, device, name in named if name != LOCAL]


def find_device_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield devices that are named twice or cannot be opened, those that would have no file to run, and a meter for nothing."""
    from benchmarks.devices import open_section

    if recipe.measure.meter and not recipe.measure.energy:
        yield CompressError("measure.meter: tells power, and no energy is measured; write measure.energy: true, or remove it")

    seen: dict[str, int] = {}
    for index, section in enumerate(recipe.measure.devices):
        where = f"measure.devices.{index}"
        try:
            device = open_section(section)
        except CompressError as error:
            yield type(error)(f"{where}: {error}")
            continue
        name = section.name or device.name
        if (first := seen.setdefault(name, index)) != index:
            yield CompressError(
                f"{where}: is called {name} like measure.devices.{first}; remove one, or give it another `name`"
            )
        elif name != LOCAL:
            yield from _find_file_problems(recipe, section, device, where)


def _find_file_problems(recipe: Recipe, section: DeviceSection, device: Device, where: str) -> Iterator[CompressError]:
    import exporters

    known = {exporter.name_file(Path(), "student").name: exporter.runtime for exporter in map(exporters.load, recipe.exports)}
    if not known:
        yield CompressError(f"{where}: nothing is exported that {device.name} could run; add `exports`, or remove the device")
        return
    for pattern in section.files:
        if not any(fnmatchcase(name, pattern) for name in known):
            yield CompressError(f"{where}.files: no file is called {pattern!r}; {plugins.suggest_name(pattern, list(known))}")
    there = getattr(device, "runtimes", None)
    named = [name for name in known if not section.files or any(fnmatchcase(name, each) for each in section.files)]
    if there is not None and named and not any(known[name] in there for name in named):
        runtimes = ", ".join(sorted({known[name] for name in named}))
        yield CompressError(
            f"{where}: {device.name} has {', '.join(there)}, and the files need {runtimes}; export a format that it can run"
        )
    if (check := getattr(device, "check_prepared", None)) is not None:
        try:
            check()
        except Unreachable as error:
            yield Unreachable(f"{where}: {error}")


def describe_devices(recipe: Recipe) -> Iterator[str]:
    """Yield for each device beside this machine what is done there, without asking it."""
    from benchmarks.devices import is_emulated

    for section, device, name in list_further(recipe):
        images = "all test images" if section.images == "all" else f"up to {section.images} test images"
        what = "no times, as it is emulated" if is_emulated(device) else "latency"
        yield f"{name}: the gate again, accuracy on {images}, {what}"


def ask_devices(recipe: Recipe) -> Iterator[str]:
    """Yield for each device beside this machine whether it answers, and what it says that it is."""
    for _, device, name in list_further(recipe):
        describe = getattr(device, "describe", None)
        if describe is None:
            continue
        try:
            facts = describe()
        except Unreachable as error:
            yield f"device {name}: does not answer: {error}"
        else:
            shown = ", ".join(f"{what} {found}" for what, found in list(facts.items())[:4])
            yield f"device {name}: answers: {shown}"
