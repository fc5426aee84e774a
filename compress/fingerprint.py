"""Fingerprints: the sha256 of whatever decides a result, from which the stage cache finds it again."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from compress import plugins
from compress.errors import Unreachable
from compress.system.files import hash_file

TRAINING = (
    "compress/losses/*.py", "compress/freezing.py", "compress/preprocess.py", "compress/geometry.py", "compress/data/*.py",
    "compress/models/*.py", "compress/methods/**/*.py", "compress/tasks/*.py", "compress/teachers/*.py",
    "compress/training/*.py", "compress/run/build.py", "compress/run/context.py", "compress/run/data.py",
    "compress/run/stage.py", "compress/run/students.py", "compress/run/teachers.py",
)  # fmt: skip
"""Our own source that can change what training gives, relative to the folder of the packages."""


def make_key(**parts: object) -> str:
    """Return the sha256 over named parts, which must be JSON values."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_sources(*patterns: str) -> str:
    """Return the sha256 of those of our own files that match, by content and by path relative to the folder of the packages.

    Raises:
        Unreachable: A pattern matches no file: what it was meant to watch would go unnoticed.
    """
    digest = hashlib.sha256()
    root = Path(__file__).parents[1]
    found = {pattern: list(root.glob(pattern)) for pattern in patterns}
    if missing := [pattern for pattern, paths in found.items() if not paths]:
        raise Unreachable(f"{root}: holds no {missing[0]}, which a stored result depends on; install edge-compress again")
    for path in sorted(path for paths in found.values() for path in paths):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def hash_plugin(kind: plugins.Kind, name: str) -> str:
    """Return the sha256 of a plug-in's source; of another distribution's, of all sources of its package."""
    plugin = plugins.describe(kind, name)
    sources = plugins.list_sources(plugin)
    if len(sources) == 1:
        return hash_file(sources[0])
    return hashlib.sha256("".join(f"{path.name} {hash_file(path)}\n" for path in sources).encode()).hexdigest()


@cache
def describe_training() -> Mapping[str, str]:
    """Return what can change the bytes that training gives: torch, its threads and instructions, and our own source."""
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    machine = f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"
    gpu = f"{torch.cuda.get_device_name()}, cuDNN {torch.backends.cudnn.version()}" if torch.cuda.is_available() else "none"
    packages = {name: _find_version(name) for name in ("torchvision", "timm")}  # they decide initial weights of their networks
    return {"torch": torch.__version__, **packages, "machine": machine, "gpu": gpu, "source": hash_sources(*TRAINING)}


def _find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
