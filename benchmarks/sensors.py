"""Sensors of power and energy of the machine that this runs on, read from the kernel's own files.

It lies beside `runner.py` in a job folder (Python 3.9, standard library). Sensors are told by the names that their drivers give
them, never by their numbers, and each says what it covers: a whole board, a processor, a rail. What is not there, or not
readable, is no sensor, with the reason. Every function takes the root of the file system. One sensor is
a program, `vcgencmd pmic_read_adc` of a Raspberry Pi 5.

`python sensors.py SENSOR` prints a line `nanoseconds watts` twenty times a second, for those sensors that tell power alone.
Source: the Linux kernel's Documentation/hwmon (ina2xx, ina3221, sysfs-interface), power/powercap and power_supply_class;
raspberrypi/documentation, os/using-vcgencmd (pmic_read_adc).
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path("/")
CHIPS = ("ina3221", "ina219", "ina220", "ina226", "ina230", "ina231", "ina238", "ltc2945", "ltc2947")
"""Drivers of chips that measure a rail by a shunt."""
WHOLE_BOARD = ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0", "5V_IN")
"""Labels of rails that feed the whole board [Jetson's device trees]."""
POLL_SECONDS = 0.05
PMIC = ("usr/bin/vcgencmd", "pmic_read_adc")
RAIL = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=(\d+\.\d+)[AV]\s*$", re.MULTILINE)
"""Name of a rail, and its current or its voltage."""
PROGRAM_SECONDS = 2.0


def find_sensor(root: Path = ROOT) -> tuple[dict[str, Any] | None, str]:
    """Return the sensor that covers most, or none and why.

    A sensor is {name, covers, kind: `counter` or `power`, parts: [{paths, scale, range}]}: a part is the product of the numbers
    in its files, times its scale, in joules of a counter and in watts of power; parts are added up. One that is a program has
    `command` in place of parts.
    """
    denied: list[str] = []
    for find in (_find_rails, _find_pmic, _find_battery, _find_rapl):
        found = find(root, denied)
        if found is not None:
            return found, ""
    if denied:
        return None, f"{denied[0]} may be read by root only; a rule of udev can change that"
    return (
        None,
        "no sensor of power or energy is known here (hwmon of INA and LTC chips, a Pi 5's PMIC, RAPL, a battery in use)",
    )


def _find_rails(root: Path, denied: list[str]) -> dict[str, Any] | None:
    """Return the rail that feeds the whole board, or else all rails of the first chip together."""
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*")):
        name = _read(chip / "name")
        if name not in CHIPS:
            continue
        rails = {label: part for label, part in _list_rails(chip) if _can_read(part, denied)}
        whole = next((label for label in rails if label.upper() in WHOLE_BOARD), None)
        if whole is not None:
            return {"name": f"{name} {whole}", "covers": "the whole board", "kind": "power", "parts": [rails[whole]]}
        if rails:
            covers = f"the rails {', '.join(rails)}, which need not be the whole board"
            return {"name": name, "covers": covers, "kind": "power", "parts": list(rails.values())}
    return None


def _list_rails(chip: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return label and part of each channel of a chip: its power where it tells that, else voltage times current."""
    rails = []
    for power in sorted(chip.glob("power[0-9]*_input")):
        number = power.name[len("power") : -len("_input")]
        label = _read(chip / f"power{number}_label") or _read(chip / f"in{number}_label") or f"power{number}"
        rails.append((label, {"paths": [str(power)], "scale": 1e-6}))  # µW
    if rails:
        return rails
    for current in sorted(chip.glob("curr[0-9]*_input")):
        number = current.name[len("curr") : -len("_input")]
        voltage, label = chip / f"in{number}_input", _read(chip / f"in{number}_label") or f"rail {number}"
        is_rail = voltage.exists() and not label.lower().startswith("sum of")  # shunt voltages added up are no rail
        if is_rail:
            rails.append((label, {"paths": [str(voltage), str(current)], "scale": 1e-6}))  # mV, mA
    return rails


def _find_pmic(root: Path, denied: list[str]) -> dict[str, Any] | None:
    """Return what a Raspberry Pi 5 tells of the rails behind its power chip; other Pis have the program, and not the chip."""
    command = [str(root / PMIC[0]), PMIC[1]]
    try:
        said = _run(command)
    except (OSError, subprocess.SubprocessError):  # no Pi, or not allowed
        if Path(command[0]).exists():
            denied.append(f"{' '.join(PMIC)} gave nothing; /dev/vcio")
        return None
    rails = read_rails(said)
    if not rails:
        return None
    covers = f"{len(rails)} rails behind the power chip, without its own loss and what USB feeds"
    return {"name": "PMIC of the Raspberry Pi 5", "covers": covers, "kind": "power", "parts": [], "command": command}


def read_rails(said: str) -> dict[str, float]:
    """Return the watts of each rail of which the power chip told current and voltage."""
    found: dict[str, dict[str, float]] = {}
    for name, kind, value in RAIL.findall(said):
        found.setdefault(name, {})[kind] = float(value)
    return {name: both["A"] * both["V"] for name, both in found.items() if len(both) == 2}


def _run(command: list[str]) -> str:
    """Return what a sensor's program prints.

    Raises:
        OSError: It is not there.
        subprocess.SubprocessError: It failed, or took too long.
    """
    return subprocess.run(
        command, check=True, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROGRAM_SECONDS
    ).stdout


def _find_battery(root: Path, denied: list[str]) -> dict[str, Any] | None:
    """Return the battery from which the machine runs right now."""
    for supply in sorted(root.glob("sys/class/power_supply/*")):
        if _read(supply / "type") != "Battery" or _read(supply / "status") != "Discharging":
            continue
        power: dict[str, Any] = {"paths": [str(supply / "power_now")], "scale": 1e-6}  # µW
        if not Path(power["paths"][0]).exists():
            power = {"paths": [str(supply / "voltage_now"), str(supply / "current_now")], "scale": 1e-12}  # µV, µA
        if _can_read(power, denied):
            covers = "the whole device with its screen"
            return {"name": f"battery {supply.name}", "covers": covers, "kind": "power", "parts": [power]}
    return None


def _find_rapl(root: Path, denied: list[str]) -> dict[str, Any] | None:
    """Return the counter of the whole system, or else those of all processors together."""
    zones: dict[str, list[dict[str, Any]]] = {}
    for zone in sorted(root.glob("sys/class/powercap/intel-rapl:*")):
        name = _read(zone / "name").partition("-")[0]
        wrap = _read(zone / "max_energy_range_uj")
        part = {"paths": [str(zone / "energy_uj")], "scale": 1e-6, "range": int(wrap) * 1e-6 if wrap.isdigit() else None}
        if name in ("psys", "package") and _can_read(part, denied):
            zones.setdefault(name, []).append(part)
    for name, covers in (("psys", "the whole system but its screen"), ("package", "the processors without memory and board")):
        if name in zones:
            return {"name": f"RAPL {name}", "covers": covers, "kind": "counter", "parts": zones[name]}
    return None


def _can_read(part: dict[str, Any], denied: list[str]) -> bool:
    """Return whether all files of a part hold a number now; those that may not be read are noted."""
    for path in part["paths"]:
        try:
            int(Path(path).read_text(encoding="ascii"))
        except PermissionError:
            denied.append(path)
            return False
        except (OSError, ValueError):
            return False
    return True


def read_parts(sensor: dict[str, Any]) -> list[float]:
    """Return the value of each part now, in joules or watts; a current that flows out of a battery may be negative there.

    Raises:
        OSError: A file cannot be read any more.
        subprocess.SubprocessError: The sensor's program failed, or took too long.
        ValueError: It holds no number.
    """
    if "command" in sensor:
        return list(read_rails(_run(sensor["command"])).values())
    return [
        abs(math.prod(int(Path(path).read_text(encoding="ascii")) for path in part["paths"])) * part["scale"]
        for part in sensor["parts"]
    ]


def count_joules(sensor: dict[str, Any], before: list[float], after: list[float]) -> float:
    """Return what counters went up, where each wrapped at most once."""
    steps = zip(sensor["parts"], before, after)  # noqa: B905 (Python 3.9)
    return sum(end - begin + (part.get("range") or 0.0) * (end < begin) for part, begin, end in steps)


def integrate_watts(samples: list[tuple[int, float]], begin_ns: int, end_ns: int) -> tuple[float, int]:
    """Return the joules between two times by the trapezoidal rule, and how many samples lie between them.

    Args:
        samples: Nanoseconds and watts, in order.
        begin_ns: From when.
        end_ns: Until when.
    """
    inside = [(at, watts) for at, watts in samples if begin_ns <= at <= end_ns]
    if len(inside) < 2:
        return 0.0, len(inside)
    area = sum((later - at) * (watts + then) / 2 for (at, watts), (later, then) in zip(inside, inside[1:]))  # noqa: B905, RUF007
    return area / (inside[-1][0] - inside[0][0]) * (end_ns - begin_ns) / 1e9, len(inside)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def poll(sensor: dict[str, Any]) -> None:
    """Print time and power until nobody reads them any more."""
    while True:
        sys.stdout.write(f"{time.monotonic_ns()} {sum(read_parts(sensor))}\n")
        sys.stdout.flush()
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    poll(json.loads(sys.argv[1]))
