"""What is told about a machine, and that the harness loads nothing heavy for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks import machine
from benchmarks.environment import LONGEST_FACT, make_environment, read_environment
from benchmarks.machine import FACTS, read_machine
from compress.errors import Unreachable


def test_every_fact_is_told_or_said_to_be_unavailable() -> None:
    """No fact is missing or empty, so a reader sees what could not be read."""
    facts = read_environment().facts
    assert facts.keys() == FACTS.keys()
    assert all(facts.values())


def test_what_can_be_checked_elsewhere_is_right() -> None:
    """Versions, cores, memory and affinity agree with what the system itself says."""
    found = read_environment()
    assert found.packages["numpy"] == np.__version__
    assert found.cores_logical == os.cpu_count()
    assert found.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found.cores_physical == psutil.cpu_count(logical=False)
    assert found.facts["affinity"] == ", ".join(map(str, sorted(os.sched_getaffinity(0))))


FILES = {
    "v2 quota": (
        {
            "proc/self/cgroup": "0::/box/inner",
            "sys/fs/cgroup/box/cpu.max": "50000 100000",
            "sys/fs/cgroup/box/inner/cpu.max": "max 100000",
        },
        ("cgroup_cpu_quota", "0.5 cores"),
    ),
    "v1 quota": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        ("cgroup_cpu_quota", "1.5 cores"),
    ),
    "v2 memory": (
        {"proc/self/cgroup": "0::/box", "sys/fs/cgroup/box/memory.max": "67108864"},
        ("cgroup_memory_limit", "64.0 MiB"),
    ),
    "v1 memory": (
        {"proc/self/cgroup": "3:memory:/", "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
        ("cgroup_memory_limit", "none"),
    ),
    "no cgroup": ({}, ("cgroup_cpu_quota", "")),
    "turbo": ({"sys/devices/system/cpu/intel_pstate/no_turbo": "1"}, ("turbo", "off")),
    "boost": ({"sys/devices/system/cpu/cpufreq/boost": "1"}, ("turbo", "on")),
    "virtual": ({"proc/cpuinfo": "flags\t\t: fpu avx2 hypervisor"}, ("hypervisor", "yes")),
    "iron": ({"proc/cpuinfo": "flags\t\t: fpu avx2"}, ("instructions", "avx2")),
    "arm": ({"proc/cpuinfo": "Features\t: fp asimddp"}, ("instructions", "asimddp")),
    "Raspberry Pi": (
        {"proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0"},
        ("board", "Raspberry Pi 4 Model B Rev 1.4"),
    ),
    "throttled Pi": (
        {"sys/devices/platform/soc/soc:firmware/get_throttled": "50004"},
        ("throttled", "now throttled; since it was started under-voltage, throttled"),
    ),
    "big and little": (
        {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": "1024" if core > 3 else "446" for core in range(6)},
        ("clusters", "0, 1, 2, 3: capacity 446; 4, 5: capacity 1024"),
    ),
}


def write_root(folder: Path, files: dict[str, str]) -> Path:
    """Write files of another machine's kernel below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("case", FILES)
def test_the_kernels_files_are_understood(case: str, tmp_path: Path) -> None:
    """Limits and facts of other machines are read from either layout of the kernel's files, the tightest limit winning."""
    files, (fact, expected) = FILES[case]
    assert FACTS[fact](write_root(tmp_path, files)) == expected


def test_a_machine_that_hides_everything_is_described_all_the_same(tmp_path: Path) -> None:
    """Where there are no files of the kernel, everything that they would tell is unavailable, and nothing is raised."""
    found = read_machine(tmp_path)
    known = {"affinity", "load_average_1_5_15_min"}  # asked of the system and not of files
    assert {name for name, fact in found["facts"].items() if fact != machine.UNAVAILABLE} <= known
    assert machine.read_state(tmp_path)["steal_ticks"] == machine.UNAVAILABLE
    assert (machine.read_times(tmp_path), machine.read_mean_clock_khz(tmp_path), machine.read_major_faults(tmp_path)) == (
        None,
    ) * 3


def test_time_without_a_core_is_told_from_time_on_one() -> None:
    """The nanoseconds that a process ran agree with its own CPU clock, and sleeping is no waiting."""
    code = (
        "import sys, time; from benchmarks.machine import read_times; a, c = read_times(), time.process_time_ns();"
        "sum(range(10**6)); time.sleep(0.3); b = read_times(); print((b[0] - a[0]) / (time.process_time_ns() - c))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(1, abs=0.2)  # the kernel brings the first up to date at a tick of 4 ms


def test_a_device_is_not_trusted_with_what_it_tells() -> None:
    """Facts are cut, control characters shown and not obeyed, and what is no description is refused in a sentence."""
    told = read_machine() | {"cpu": "x\x1b[31m" * 1000, "facts": {"board": "y" * 10_000}}
    found = make_environment(told)
    assert len(found.facts["board"]) == LONGEST_FACT
    assert "\x1b" not in found.cpu
    for wrong in ({}, {"cpu": 3}, {**told, "facts": {"a": ["b"]}}):
        with pytest.raises(Unreachable, match="does not tell what it is"):
            make_environment(wrong)


def test_the_package_itself_loads_nothing() -> None:
    """`import benchmarks` is free, and its public names are there on first use."""
    code = (
        "import sys, benchmarks; print('numpy' in sys.modules, benchmarks.measure.__module__, hasattr(benchmarks, 'nonesuch'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "benchmarks.protocol", "False"]


def test_the_protocol_loads_no_runtime() -> None:
    """Importing the harness and asking for a file's runtime imports neither torch nor any other runtime."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import find_runtime; import benchmarks.environment;"
        "find_runtime(Path('a.onnx')); print(sorted({'torch', 'onnxruntime', 'openvino'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CLUSTERS = {f"sys/devices/system/cpu/cpu{core}/cpu_capacity": "1024" if core > 3 else "446" for core in range(6)}


def test_cores_are_found_by_kind_and_by_number(tmp_path: Path) -> None:
    """Big and little cores are told by the kernel's capacity, and a list of numbers means what taskset means by it."""
    root, allowed = write_root(tmp_path, CLUSTERS), sorted(os.sched_getaffinity(0))
    assert machine.find_cpus("big", root) == [4, 5]
    assert machine.find_cpus("little", root) == [0, 1, 2, 3]
    assert machine.find_cpus(",".join(map(str, allowed))) == allowed
    assert machine.find_cpus(f"{allowed[0]}-{allowed[0]}") == allowed[:1]


@pytest.mark.parametrize("text", ["", "x", "1-2-3", "9999", "-1", "3-1", "0,,1"])
def test_cores_that_are_none_are_refused(text: str) -> None:
    """The message shows what was given and which cores there are."""
    with pytest.raises(ValueError, match=f"cpus {text}: are not cores that this process may use"):
        machine.find_cpus(text)


def test_big_cores_of_a_machine_without_them_are_refused(tmp_path: Path) -> None:
    """Where all cores are alike, or the kernel does not tell, nobody gets a guess."""
    with pytest.raises(ValueError, match="does not tell big cores from little ones"):
        machine.find_cpus("big", tmp_path)
