"""What is told about the machine, and that the harness loads nothing heavy for it."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import environment
from benchmarks.environment import FACTS, read_environment


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
    assert found.facts["affinity"] == ", ".join(map(str, sorted(os.sched_getaffinity(0))))


FILES = {
    "v2 quota": (
        {
            "/proc/self/cgroup": "0::/box/inner",
            "/sys/fs/cgroup/box/cpu.max": "50000 100000",
            "/sys/fs/cgroup/box/inner/cpu.max": "max 100000",
        },
        ("cgroup_cpu_quota", "0.5 cores"),
    ),
    "v1 quota": (
        {
            "/proc/self/cgroup": "4:cpu,cpuacct:/",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "150000",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        },
        ("cgroup_cpu_quota", "1.5 cores"),
    ),
    "v2 memory": (
        {"/proc/self/cgroup": "0::/box", "/sys/fs/cgroup/box/memory.max": "67108864"},
        ("cgroup_memory_limit", "64.0 MiB"),
    ),
    "v1 memory": (
        {"/proc/self/cgroup": "3:memory:/", "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"},
        ("cgroup_memory_limit", "none"),
    ),
    "no cgroup": ({}, ("cgroup_cpu_quota", "")),
    "turbo": ({"/sys/devices/system/cpu/intel_pstate/no_turbo": "1"}, ("turbo", "off")),
    "boost": ({"/sys/devices/system/cpu/cpufreq/boost": "1"}, ("turbo", "on")),
    "virtual": ({"/proc/cpuinfo": "flags\t\t: fpu avx2 hypervisor"}, ("hypervisor", "yes")),
    "iron": ({"/proc/cpuinfo": "flags\t\t: fpu avx2"}, ("instructions", "avx2")),
    "arm": ({"/proc/cpuinfo": "Features\t: fp asimddp"}, ("instructions", "asimddp")),
}


@pytest.mark.parametrize("case", FILES)
def test_the_kernels_files_are_understood(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits and CPU facts are read from either layout of the kernel's files, the tightest limit winning."""
    files, (fact, expected) = FILES[case]
    monkeypatch.setattr(environment, "read", lambda path: files.get(path, ""))
    assert FACTS[fact]() == expected


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
