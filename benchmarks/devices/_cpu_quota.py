"""A share of this machine's cores for one process: a control group of its own, which the kernel holds to a quota."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.errors import Unreachable

CGROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
"""As the kernel has it by itself."""


@contextmanager
def make_quota(cores: float, root: Path = CGROUPS) -> Iterator[Path]:
    """Give a control group whose processes together get so many cores' time, and remove it afterwards.

    Args:
        cores: For example 0.5.
        root: Where control groups are.

    Raises:
        Unreachable: This machine has none with a quota, or this user may not make one.
    """
    first_version = root / "cpu"
    parent = first_version if (first_version / "cpu.cfs_quota_us").exists() else root / "edge-compress"
    place = parent / f"edge-compress-{os.getpid()}"
    try:
        if parent != first_version:
            parent.mkdir(exist_ok=True)
            _write(root / "cgroup.subtree_control", "+cpu")
            _write(parent / "cgroup.subtree_control", "+cpu")
        place.mkdir()
    except OSError as error:
        raise Unreachable(
            f"local: cpu_quota {cores:g}: no control group can be made below {parent} ({error.strerror}); run as a user who "
            f"may, for example under `systemd-run --scope -p CPUQuota={100 * cores:.0f}%`, and leave cpu_quota out"
        ) from error
    try:
        quota = round(cores * PERIOD_US)
        if parent == first_version:
            _write(place / "cpu.cfs_quota_us", str(quota))
        else:
            _write(place / "cpu.max", f"{quota} {PERIOD_US}")
        yield place
    except OSError as error:
        raise Unreachable(f"local: cpu_quota {cores:g}: {place} takes no quota ({error.strerror}); leave it out") from error
    finally:
        place.rmdir()


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")
