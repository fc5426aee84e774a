"""Sensors of other machines, as folders, and energies of raw blocks: measured above idle, or unavailable with the reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import meter, runner, sensors, timer
from benchmarks.devices import Progress
from benchmarks.energy import compute_energies, measure_energy
from compress.cli.tables import describe_sensors, draw_energies
from compress.errors import CompressError, Unreachable
from tests.benchmarks.tiny import Tiny


def make_root(folder: Path, files: dict[str, object]) -> Path:
    """Return a folder that stands for the root of another machine's file system."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{content}\n")
    return folder


JETSON = {
    "sys/class/hwmon/hwmon0/name": "cpu_thermal",
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_CPU_CV", "sys/class/hwmon/hwmon3/in1_input": 5000,
    "sys/class/hwmon/hwmon3/curr1_input": 300,
    "sys/class/hwmon/hwmon3/in2_label": "VDD_IN", "sys/class/hwmon/hwmon3/in2_input": 5040,
    "sys/class/hwmon/hwmon3/curr2_input": 1000,
    "sys/class/hwmon/hwmon3/in4_label": "sum of shunt voltages", "sys/class/hwmon/hwmon3/in4_input": 9,
    "sys/class/hwmon/hwmon3/curr4_input": 9,
}  # fmt: skip
INA = {
    "sys/class/hwmon/hwmon1/name": "ina219", "sys/class/hwmon/hwmon1/power1_input": 2_500_000,
    "sys/class/hwmon/hwmon1/curr1_input": 500, "sys/class/hwmon/hwmon1/in1_input": 5000,
}  # fmt: skip
INTEL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0", "sys/class/powercap/intel-rapl:0/energy_uj": 7_000_000,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 9_000_000,
    "sys/class/powercap/intel-rapl:1/name": "package-1", "sys/class/powercap/intel-rapl:1/energy_uj": 1_000_000,
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": 9_000_000,
    "sys/class/powercap/intel-rapl:0:0/name": "core", "sys/class/powercap/intel-rapl:0:0/energy_uj": 5,
}  # fmt: skip
PHONE = {
    "sys/class/power_supply/usb/type": "USB", "sys/class/power_supply/battery/type": "Battery",
    "sys/class/power_supply/battery/status": "Discharging", "sys/class/power_supply/battery/voltage_now": 4_000_000,
    "sys/class/power_supply/battery/current_now": -250_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "name", "covers", "values"),
    [
        pytest.param(JETSON, "ina3221 VDD_IN", "the whole board", [5.04], id="jetson"),
        pytest.param(INA, "ina219", "the rails power1, which need not be the whole board", [2.5], id="a chip of one's own"),
        pytest.param(INTEL, "RAPL package", "the processors without memory and board", [7.0, 1.0], id="intel"),
        pytest.param(
            INTEL | {"sys/class/powercap/intel-rapl:2/name": "psys", "sys/class/powercap/intel-rapl:2/energy_uj": 3_000_000},
            "RAPL psys", "the whole system but its screen", [3.0], id="a laptop that counts all",
        ),
        pytest.param(PHONE, "battery battery", "the whole device with its screen", [1.0], id="phone"),
        pytest.param(JETSON | INTEL, "ina3221 VDD_IN", "the whole board", [5.04], id="what covers most"),
    ],
)  # fmt: skip
def test_sensors_are_told_by_name_and_say_what_they_cover(
    files: dict[str, object], name: str, covers: str, values: list[float], tmp_path: Path
) -> None:
    """In watts or joules, whatever unit the driver uses; a processor's parts are not counted twice."""
    sensor, reason = sensors.find_sensor(make_root(tmp_path, files))
    assert sensor is not None
    assert (sensor["name"], sensor["covers"], reason) == (name, covers, "")
    assert sensors.read_parts(sensor) == pytest.approx(values)


PMIC = """
     3V7_WL_SW_A current(0)=0.10000000A
        DDR_VDD2_A current(1)=0.50000000A
     3V7_WL_SW_V volt(8)=3.70000000V
        DDR_VDD2_V volt(9)=1.20000000V
         EXT5V_V volt(24)=5.15098000V
          BATT_V volt(25)=0.00341000V
"""


def make_vcgencmd(root: Path, script: str) -> Path:
    """Write a program that stands for a Pi's."""
    (root / "usr" / "bin").mkdir(parents=True)
    program = root / "usr" / "bin" / "vcgencmd"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return root


def test_the_rails_of_a_raspberry_pi_5_are_added_up(tmp_path: Path) -> None:
    """Those of which current and voltage are told, each time anew; the voltage of the plug alone is no power."""
    root = make_vcgencmd(tmp_path, f'[ "$1" = pmic_read_adc ] && cat <<END\n{PMIC}\nEND')
    sensor, reason = sensors.find_sensor(root)
    assert sensor is not None
    assert (sensor["kind"], sensor["covers"], reason) == (
        "power", "2 rails behind the power chip, without its own loss and what USB feeds", "",
    )  # fmt: skip
    assert sensors.read_parts(json.loads(json.dumps(sensor))) == pytest.approx([0.37, 0.6])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("echo 'error=1 error_msg=\"Command not registered\"'", "no sensor of power", id="another Pi"),
        pytest.param(
            "echo 'Can not open device file: /dev/vcio' >&2; exit 255", "usr/bin/vcgencmd pmic_read_adc gave", id="denied"
        ),
    ],
)
def test_a_raspberry_pi_whose_chip_tells_nothing_is_told_why(script: str, reason: str, tmp_path: Path) -> None:
    """Older Pis have the program and no such chip; a user out of the group `video` may not ask it."""
    sensor, found = sensors.find_sensor(make_vcgencmd(tmp_path, script))
    assert sensor is None
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        pytest.param({}, "no sensor of power or energy is known here", id="none"),
        pytest.param(PHONE | {"sys/class/power_supply/battery/status": "Charging"}, "no sensor", id="charging"),
        pytest.param({"sys/class/hwmon/hwmon0/name": "nvme", "sys/class/hwmon/hwmon0/power1_input": 9}, "no sensor", id="disk"),
        pytest.param(INA | {"sys/class/hwmon/hwmon1/power1_input": "N/A"}, "no sensor", id="no number"),
    ],
)
def test_where_there_is_none_the_reason_is_told(files: dict[str, object], reason: str, tmp_path: Path) -> None:
    """A disk's power, or that of a charger, is not that of an inference."""
    sensor, found = sensors.find_sensor(make_root(tmp_path, files))
    assert sensor is None
    assert found.startswith(reason)


def test_what_only_root_may_read_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As RAPL is since Linux 5.10."""
    root, read = make_root(tmp_path, INTEL), Path.read_text

    def refuse(path: Path, **options: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    sensor, reason = sensors.find_sensor(root)
    assert sensor is None
    assert reason.endswith("intel-rapl:0/energy_uj may be read by root only; a rule of udev can change that")


def test_counters_that_wrap_count_on_and_power_is_integrated() -> None:
    """A wrap adds the range once; of a linear ramp the trapezoidal rule is exact, also between samples."""
    sensor = {"parts": [{"range": 9.0}, {"range": 9.0}]}
    assert sensors.count_joules(sensor, [7.0, 1.0], [1.0, 4.0]) == pytest.approx(6.0)
    ramp = [(int(at * 1e9), 2.0 + at) for at in np.linspace(0, 10, 201)]
    joules, samples = sensors.integrate_watts(ramp, int(2e9), int(6e9))
    assert joules == pytest.approx(4 * (2 + 4))
    assert samples == 81


def test_files_are_measured_in_turn_with_an_idle_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a counter that goes up by 3 mJ with each call of one file and 1 mJ of the other, both are found exactly."""
    used = {"joules": 0.0}

    class Runtime:
        def __init__(self, millijoules: float) -> None:
            self.millijoules = millijoules

        def __call__(self, _images: object) -> None:
            used["joules"] += self.millijoules / 1000

        def effective(self) -> dict[str, str]:
            return {"version": "1"}

    counter = SimpleNamespace(
        find_sensor=lambda _root: ({"name": "fake", "covers": "all", "kind": "counter", "parts": [{}]}, ""),
        read_parts=lambda _sensor: [used["joules"]], count_joules=sensors.count_joules,
    )  # fmt: skip
    lent = SimpleNamespace(
        load_beside={"sensors": counter, "timer": timer}.get, share_inputs=lambda subjects, *_: [[0]] * len(subjects),
        report_progress=lambda *_: None, tag_errors=runner.tag_errors,
    )  # fmt: skip
    monkeypatch.setattr(
        timer, "load_subject", lambda _job, subject, *_, **__: {"runtime": Runtime({"big": 3.0, "small": 1.0}[subject["name"]])}
    )
    job = {"subjects": [{"name": "big"}, {"name": "small"}], "batch_size": 1, "rounds": 6, "seconds": 0.01, "seed": 0}
    found = compute_energies(meter.measure_energy(job, tmp_path, lent), ["big", "small"])
    assert {name: each.above_idle_mj for name, each in found.items()} == pytest.approx({"big": 3.0, "small": 1.0})
    assert found["big"].blocks == 6


METER = """#!{python}
import sys, time
while True:
    print(f"{{time.time():.6f}} {watts}", flush=True)
    time.sleep(0.01)
"""


def write_meter(path: Path, watts: str) -> Path:
    path.write_text(METER.format(python=sys.executable, watts=watts))
    path.chmod(0o755)
    return path


def test_a_meter_of_the_users_own_is_read_by_its_program(tmp_path: Path) -> None:
    """Of a meter that always says 2.5 W, that is the idle power and the energy of a second; nothing is above idle."""
    sensor, _ = meter.describe_meter(str(write_meter(tmp_path / "meter", "2.5")))
    with meter.Meter(sensor, sensors) as reading:
        meter.idle_for(1.0)  # until it prints
        found = reading.measure(lambda: meter.idle_for(1.0))
    assert found["joules"] / found["seconds"] == pytest.approx(2.5)
    assert found["samples"] > 20


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param("#!/bin/sh\necho on\nsleep 9\n", "printed 'on' and no seconds and watts", id="words"),
        pytest.param("#!/bin/sh\necho 1.0 nan\nsleep 9\n", "printed '1.0 nan' and no seconds and watts", id="no number"),
        pytest.param("#!/bin/sh\n", "ended before the measurement did", id="ended"),
        pytest.param(None, "cannot be started there: No such file or directory", id="not there"),
    ],
)
def test_a_program_that_is_no_meter_is_unavailable(content: str | None, reason: str, tmp_path: Path) -> None:
    """With its name and what it did; the job itself did not fail."""
    program = tmp_path / "meter"
    if content is not None:
        program.write_text(content)
        program.chmod(0o755)
    lent = SimpleNamespace(
        load_beside={"sensors": sensors, "timer": timer}.get, share_inputs=lambda *_: [], report_progress=lambda *_: None
    )
    job = {"meter": str(program), "subjects": [], "batch_size": 1, "rounds": 6, "seconds": 1.0, "seed": 0}
    found = meter.measure_energy(job, tmp_path, lent)
    assert found == {"unavailable": f"{program} {reason}"}


def make_raw(*, idle: list[float] | None = None, samples: int | None = 100) -> dict[str, Any]:
    """Six blocks of 5 s at 5 W with 1000 calls, between those of an idle machine of about 2 W."""
    watts = idle or [2.0] * 6
    return {
        "sensor": {"name": "ina3221 VDD_IN", "covers": "the whole board", "kind": "power"},
        "idle": [{"seconds": 2.0, "joules": 2.0 * each, "samples": samples, "calls": 0} for each in watts],
        "blocks": {"a": [{"seconds": 5.0, "joules": 25.0, "samples": samples, "calls": 1000}] * 6},
    }


def test_what_an_idle_machine_takes_is_told_apart() -> None:
    """25 mJ a call in all, of which 10 are those of the idle machine."""
    found = compute_energies(make_raw(), ["a"])["a"]
    assert (found.total_mj, found.above_idle_mj, found.idle_watts) == pytest.approx((25.0, 15.0, 2.0))
    assert found.above_idle_ci95 == pytest.approx((15.0, 15.0))
    assert describe_sensors({"a": found}) == ["measured by ina3221 VDD_IN, which covers the whole board"]
    assert draw_energies({"a": found}).row_count == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(make_raw(samples=9), "ina3221 VDD_IN gave 9 samples in a block, and 50 are needed", id="samples"),
        pytest.param(make_raw(idle=[2.0] * 5 + [2.4]), "the idle machine's power drifted by 20 % by ina3221", id="drift"),
        pytest.param({"unavailable": "no sensor\x1b[2J"}, r"no sensor\x1b[2J", id="none"),
    ],
)
def test_what_cannot_be_relied_on_is_unavailable(raw: dict[str, Any], reason: str) -> None:
    """With the reason in words, and without a number."""
    found = compute_energies(raw, ["a"])["a"]
    assert found.unavailable.startswith(reason)
    assert (found.above_idle_mj, found.total_mj) == (None, None)


class Answers:
    """A device that answers with a document."""

    name = "answers"

    def __init__(self, document: object) -> None:
        self.document = document

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:  # noqa: ARG002 (the contract)
        """Leave the answer in the job folder."""
        assert json.loads((job / "job.json").read_text())["task"] == "energy"
        (job / "result.json").write_text(json.dumps(self.document))


def test_a_device_is_asked_and_not_believed(tiny: Tiny) -> None:
    """Its reason is passed on; blocks that no runner writes are refused, as are settings that give no interval."""
    subject = tiny.subjects["onnxruntime"]
    found = measure_energy([subject], tiny.images, device=Answers({"unavailable": "no sensor"}))
    assert found[subject.name].unavailable == "no sensor"
    with pytest.raises(Unreachable, match="is not what the runner writes"):
        measure_energy([subject], tiny.images, device=Answers({"sensor": {}}))
    with pytest.raises(CompressError, match="energy: 3 blocks of 5 s; give at least 6"):
        measure_energy([subject], tiny.images, blocks=3)
