"""What a machine is, and what it does right now: read from the kernel's own files, with nothing but the standard library.

It lies beside `runner.py` in a job folder and tells of the machine that it runs on, so of the board and not of its host.
Containers and virtual machines hide most. What cannot be read is `unavailable`, never a guess. Every function takes the root of
the file system, so that a folder can stand for another machine.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/")
UNAVAILABLE = "unavailable"
PACKAGES = (
    "edge-compress", "torch", "torchvision", "numpy", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf",
    "executorch", "torchao", "litert-torch", "ai-edge-litert", "tflite-runtime",
)  # fmt: skip
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")
"""CPU flags that decide which kernels a runtime picks, as /proc/cpuinfo spells them."""
UNLIMITED_BYTES = 1 << 60
"""cgroup v1 writes a huge number where there is no memory limit."""
CPUS = "sys/devices/system/cpu/cpu[0-9]*"
THROTTLED_NOW = {0: "under-voltage", 1: "clock capped", 2: "throttled", 3: "soft temperature limit"}
"""Bits of a Raspberry Pi's `get_throttled`; 16 higher they say the same of the time since it was started."""


def read_machine(root: Path = ROOT) -> dict[str, Any]:
    """Return packages, processor, memory and the facts that a reader of latencies must know."""
    return {
        "packages": dict(_read_packages()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _read_cpuinfo(root, "model name") or _read_board(root) or platform.processor() or platform.machine(),
        "cores_physical": _count_physical_cores(root),
        "cores_logical": os.cpu_count() or 1,
        "memory_bytes": _read_memory_bytes(root),
        "facts": {name: read_fact(root) or UNAVAILABLE for name, read_fact in FACTS.items()},
    }


def _read_packages() -> Iterator[tuple[str, str]]:
    from importlib.metadata import PackageNotFoundError, version  # large, and wanted once

    for name in PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _read_cpuinfo(root: Path, key: str) -> str:
    """Return the first value of a key of /proc/cpuinfo, empty where there is none."""
    for line in read("proc/cpuinfo", root).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _read_board(root: Path) -> str:
    return read("proc/device-tree/model", root).strip("\0") or _read_cpuinfo(root, "Model")


def _count_physical_cores(root: Path) -> int | None:
    """Return how many cores there are, where the kernel says which processors share one."""
    return len(set(read_all(f"{CPUS}/topology/thread_siblings_list", root).values())) or None


def _read_memory_bytes(root: Path) -> int | None:
    for line in read("proc/meminfo", root).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read_distinct(pattern: str, root: Path) -> str:
    return ", ".join(sorted(set(read_all(pattern, root).values())))


def _read_governor(root: Path) -> str:
    return _read_distinct(f"{CPUS}/cpufreq/scaling_governor", root)


def _read_turbo(root: Path) -> str:
    off = {"0": "on", "1": "off"}.get(read("sys/devices/system/cpu/intel_pstate/no_turbo", root), "")
    return off or {"0": "off", "1": "on"}.get(read("sys/devices/system/cpu/cpufreq/boost", root), "")


def _read_frequency(root: Path) -> str:
    return ", ".join(f"{value / 1000:.0f} MHz" for value in read_numbers(f"{CPUS}/cpufreq/scaling_cur_freq", root))


def _read_temperature(root: Path) -> str:
    return ", ".join(f"{value / 1000:.0f} °C" for value in read_numbers("sys/class/thermal/thermal_zone*/temp", root))


def _read_cgroup_files(root: Path, controller: str, name: str, name_v1: str) -> Iterator[tuple[str, Path]]:
    """Yield the content and the place of a limit in every cgroup above this process, innermost first."""
    for line in read("proc/self/cgroup", root).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root.joinpath("sys/fs/cgroup", *([controllers] if controllers else []))
        here = top / place.lstrip("/")
        for folder in (here, *here.parents):
            if (folder == top or top in folder.parents) and (text := read(folder / (name_v1 if controllers else name))):
                yield text, folder


def _read_cpu_quota(root: Path) -> str:
    """Return the tightest CPU quota in cores."""
    quotas, seen = [], False
    for text, folder in _read_cgroup_files(root, "cpu", "cpu.max", "cpu.cfs_quota_us"):
        quota, _, period = text.partition(" ")
        period = period or read(folder / "cpu.cfs_period_us")
        seen = True
        if quota not in ("max", "-1"):
            quotas.append(int(quota) / int(period))
    return f"{min(quotas):g} cores" if quotas else "none" if seen else ""


def _read_memory_limit(root: Path) -> str:
    texts = [text for text, _ in _read_cgroup_files(root, "memory", "memory.max", "memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text != "max" and int(text) < UNLIMITED_BYTES]
    return f"{min(limits) / (1 << 20):.1f} MiB" if limits else "none" if texts else ""


def _read_affinity(_root: Path) -> str:
    return ", ".join(map(str, sorted(os.sched_getaffinity(0)))) if hasattr(os, "sched_getaffinity") else ""


def _read_load(_root: Path) -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def _read_hypervisor(root: Path) -> str:
    flags = _read_cpuinfo(root, "flags").split()
    return ("yes" if "hypervisor" in flags else "no") if flags else ""


def _read_instructions(root: Path) -> str:
    flags = (_read_cpuinfo(root, "flags") or _read_cpuinfo(root, "Features")).split()
    return ", ".join(flag for flag in INSTRUCTIONS if flag in flags)


def _read_energy(root: Path) -> str:
    return ", ".join(Path(path).parent.name for path in read_all("sys/class/powercap/*/energy_uj", root))


def _describe_clusters(root: Path) -> str:
    """Return which cores are little and which are big, where the kernel tells them apart."""
    groups = read_clusters(root)
    return "; ".join(f"{', '.join(map(str, cores))}: capacity {capacity}" for capacity, cores in groups.items())


def _describe_throttled(root: Path) -> str:
    bits = read_throttled_bits(root)
    if bits is None:
        return ""
    now = [name for bit, name in THROTTLED_NOW.items() if bits >> bit & 1]
    since = [name for bit, name in THROTTLED_NOW.items() if bits >> (16 + bit) & 1]
    return f"now {', '.join(now) or 'nothing'}; since it was started {', '.join(since) or 'nothing'}"


FACTS: dict[str, Callable[[Path], str]] = {
    "board": _read_board,
    "governor": _read_governor,
    "turbo": _read_turbo,
    "frequency": _read_frequency,
    "temperature": _read_temperature,
    "throttled": _describe_throttled,
    "clusters": _describe_clusters,
    "cgroup_cpu_quota": _read_cpu_quota,
    "cgroup_memory_limit": _read_memory_limit,
    "affinity": _read_affinity,
    "load_average_1_5_15_min": _read_load,
    "hypervisor": _read_hypervisor,
    "instructions": _read_instructions,
    "energy_counter": _read_energy,
}
"""What is read, and how; an empty answer is unavailable."""


def read_clusters(root: Path = ROOT) -> dict[int, list[int]]:
    """Return the cores of each capacity, the smallest capacity first; empty where the kernel does not tell."""
    groups: dict[int, list[int]] = {}
    for path, text in read_all(f"{CPUS}/cpu_capacity", root).items():
        groups.setdefault(int(text), []).append(int(Path(path).parent.name[3:]))
    return {capacity: sorted(cores) for capacity, cores in sorted(groups.items())}


def find_cpus(text: str, root: Path = ROOT) -> list[int]:
    """Return the numbers of the cores that a text names: `big`, `little`, or numbers and ranges as `0-3,6`.

    Raises:
        ValueError: It names none, or some that this process may not use.
    """
    if text in ("big", "little"):
        clusters = list(read_clusters(root).values())
        if len(clusters) < 2:
            raise ValueError(f"cpus {text}: this machine does not tell big cores from little ones; name them by number, as 0-3")
        return clusters[-1 if text == "big" else 0]
    try:
        ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
        cpus = sorted({cpu for end in ends for cpu in range(end[0], end[-1] + 1)}) if all(len(end) < 3 for end in ends) else []
    except ValueError:
        cpus = []
    allowed = os.sched_getaffinity(0)
    if not cpus or not allowed.issuperset(cpus):
        known = ", ".join(map(str, sorted(allowed)))
        raise ValueError(
            f"cpus {text}: are not cores that this process may use ({known}); name some of them, as 0-3, or big or little"
        )
    return cpus


def read_throttled_bits(root: Path = ROOT) -> int | None:
    """Return the bits with which a Raspberry Pi says that it throttles; None elsewhere."""
    text = read("sys/devices/platform/soc/soc:firmware/get_throttled", root)
    return int(text, 16) if text else None


def find_throttling(root: Path = ROOT) -> list[str]:
    """Return by which signs the machine slows down right now; none where there is no sign, or none can be read."""
    bits = read_throttled_bits(root) or 0
    found = [name for bit, name in THROTTLED_NOW.items() if bits >> bit & 1]
    return found + ["cooled by slowing down"] * any(int(state) > 0 for state in read_cooling(root).values())


def read_cooling(root: Path = ROOT) -> dict[str, str]:
    """Return how far each part of the machine is slowed down to cool it, 0 for not at all; fans do not count."""
    found = {}
    for path, kind in read_all("sys/class/thermal/cooling_device*/type", root).items():
        state = read(Path(path).with_name("cur_state"))
        if state.isdigit() and any(part in kind for part in ("cpufreq", "Processor")):
            found[path] = state
    return found


def read_state(root: Path = ROOT) -> dict[str, Any]:
    """Return what may disturb a measurement, as far as it can be read: load, clock, heat, throttling, stolen time."""
    cpu = (read("proc/stat", root).split("\n", 1)[0].split() + [""] * 9)[8]
    switches = [line.replace("\t", " ") for line in read("proc/self/status", root).splitlines() if "ctxt_switches" in line]
    return {
        "unix_seconds": time.time(),
        "load_average": list(os.getloadavg()),
        "governor": read_all(f"{CPUS}/cpufreq/scaling_governor", root),
        "frequency_khz": read_all(f"{CPUS}/cpufreq/scaling_cur_freq", root),
        "temperature_millicelsius": read_all("sys/class/thermal/thermal_zone*/temp", root),
        "throttle_count": read_all(f"{CPUS}/thermal_throttle/*_throttle_count", root),
        "cooling_state": read_cooling(root),
        "throttled_bits": read_throttled_bits(root),
        "cgroup_cpu": read_all("sys/fs/cgroup/cpu.stat", root) or read_all("sys/fs/cgroup/cpu/cpu.stat", root),
        "pressure_cpu": read("proc/pressure/cpu", root) or UNAVAILABLE,
        "steal_ticks": cpu or UNAVAILABLE,
        "context_switches": switches or UNAVAILABLE,
    }


def read_times(root: Path = ROOT) -> tuple[int, int] | None:
    """Return how long the threads of this process ran, and how long they waited for a core, in nanoseconds; None if unknown.

    A thread that sleeps waits for nothing. So the share of the waiting tells a busy machine from a slow file.
    """
    found = read_all("proc/self/task/*/schedstat", root).values()
    pairs = [text.split()[:2] for text in found]
    return (sum(int(ran) for ran, _ in pairs), sum(int(waited) for _, waited in pairs)) if pairs else None


def read_mean_clock_khz(root: Path = ROOT) -> float | None:
    """Return the mean clock of the cores now; None where it cannot be read."""
    values = read_numbers(f"{CPUS}/cpufreq/scaling_cur_freq", root)
    return sum(values) / len(values) if values else None


def read_major_faults(root: Path = ROOT) -> int | None:
    """Return how often this process had to wait for a page from disk; None where the kernel does not tell."""
    fields = read("proc/self/stat", root).rpartition(")")[2].split()
    return int(fields[9]) if len(fields) > 9 else None


def read_memory_bytes(field: str, root: Path = ROOT) -> int | None:
    """Return `VmHWM` (peak) or `VmRSS` (now) of this process; None where there is no /proc.

    Not `ru_maxrss`: that is inherited through fork and exec, so under a big parent it is the parent's.
    """
    for line in read("proc/self/status", root).splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def read_numbers(pattern: str, root: Path = ROOT) -> list[int]:
    """Return the whole numbers in all files that match and hold one, in the order of their paths."""
    return [int(text) for text in read_all(pattern, root).values() if text.lstrip("-").isdigit()]


def read_all(pattern: str, root: Path = ROOT) -> dict[str, str]:
    """Return the content of every readable file that matches; empty where there is none."""
    found = {str(path): read(path) for path in sorted(root.glob(pattern))}
    return {path: text for path, text in found.items() if text}


def read(path: str | Path, root: Path = ROOT) -> str:
    """Return the text of a small file, and nothing where it cannot be read: virtual machines and containers hide most."""
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
