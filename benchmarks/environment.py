"""Read the environment of a measurement: packages, CPU, and whatever may change a latency, as far as it can be read.

Containers and virtual machines hide most of it. What cannot be read is `unavailable`, never a guess.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from benchmarks.runner import UNAVAILABLE, read, read_all
from compress.records import Environment
from compress.text import format_bytes

PACKAGES = (
    "edge-compress", "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf",
    "executorch", "torchao", "litert-torch", "ai-edge-litert",
)  # fmt: skip
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
"""CPU flags that decide which kernels a runtime picks, as /proc/cpuinfo spells them."""
UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes a huge number where there is no memory limit."""


def read_environment() -> Environment:
    """Return packages, CPU, memory and the facts that a reader of latencies must know."""
    return Environment(
        packages=dict(_read_packages()),
        python=platform.python_version(),
        platform=platform.platform(),
        cpu=_read_cpuinfo("model name") or _read_cpuinfo("Model") or platform.processor() or platform.machine(),
        cores_physical=psutil.cpu_count(logical=False),
        cores_logical=psutil.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        facts={name: read_fact() or UNAVAILABLE for name, read_fact in FACTS.items()},
    )


def _read_packages() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _read_cpuinfo(key: str) -> str:
    """Return the first value of a key of /proc/cpuinfo, empty where there is none."""
    for line in read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read_distinct(pattern: str) -> str:
    return ", ".join(sorted(set(read_all(pattern).values())))


def _read_governor() -> str:
    return _read_distinct("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")


def _read_turbo() -> str:
    off = {"0": "on", "1": "off"}.get(read("/sys/devices/system/cpu/intel_pstate/no_turbo"), "")
    return off or {"0": "off", "1": "on"}.get(read("/sys/devices/system/cpu/cpufreq/boost"), "")


def _read_frequency() -> str:
    values = read_all("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq").values()
    return ", ".join(f"{int(value) / 1000:.0f} MHz" for value in values)


def _read_temperature() -> str:
    values = read_all("/sys/class/thermal/thermal_zone*/temp").values()
    return ", ".join(f"{int(value) / 1000:.0f} °C" for value in values)


def _read_cgroup_files(controller: str, name: str, name_v1: str) -> Iterator[tuple[str, Path]]:
    """Yield the content and the place of a limit in every cgroup above this process, innermost first."""
    for line in read("/proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", *([controllers] if controllers else []))
        here = root / place.lstrip("/")
        for folder in (here, *here.parents):
            if folder.is_relative_to(root) and (text := read(str(folder / (name_v1 if controllers else name)))):
                yield text, folder


def _read_cpu_quota() -> str:
    """Return the tightest CPU quota in cores."""
    quotas, seen = [], False
    for text, folder in _read_cgroup_files("cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, _, period = text.partition(" ")
        period = period or read(str(folder / "cpu.cfs_period_us"))
        seen = True
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return f"{min(quotas):g} cores" if quotas else "none" if seen else ""


def _read_memory_limit() -> str:
    texts = [text for text, _ in _read_cgroup_files("memory", "memory.max", "memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text != "max" and int(text) < UNLIMITED_BYTES]
    return format_bytes(min(limits)) if limits else "none" if texts else ""


def _read_affinity() -> str:
    return ", ".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else ""


def _read_load() -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _read_hypervisor() -> str:
    flags = _read_cpuinfo("flags").split()
    return ("yes" if "hypervisor" in flags else "no") if flags else ""


def _read_instructions() -> str:
    flags = (_read_cpuinfo("flags") or _read_cpuinfo("Features")).split()
    return ", ".join(flag for flag in INSTRUCTIONS if flag in flags)


def _read_energy() -> str:
    return ", ".join(Path(path).parent.name for path in read_all("/sys/class/powercap/*/energy_uj"))


FACTS: dict[str, Callable[[], str]] = {
    "governor": _read_governor,
    "turbo": _read_turbo,
    "frequency": _read_frequency,
    "temperature": _read_temperature,
    "cgroup_cpu_quota": _read_cpu_quota,
    "cgroup_memory_limit": _read_memory_limit,
    "affinity": _read_affinity,
    "load_average_1_5_15_min": _read_load,
    "hypervisor": _read_hypervisor,
    "instructions": _read_instructions,
    "energy_counter": _read_energy,
}
"""What is read, and how; an empty answer is unavailable."""
