"""Read where a recipe says that weights come from: a file, a folder in hub layout, an address, or a repository of the hub.

What is fetched must be pinned, so that the same recipe means the same weights tomorrow: an address by a sha256, a repository by
a commit, of which the hub promises that its files never change, or by a sha256.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

HUB = "hf-hub:"
HUB_FILES = "model.safetensors", "pytorch_model.bin"
"""Weights in a folder in hub layout, the first that is there."""
HUB_FILE = HUB_FILES[0]
"""What a repository's weights are called unless the recipe says otherwise."""
_HUB = re.compile(
    r"hf-hub:(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w.-]+))?(:(?P<file>[\w.-]+(/[\w.-]+)*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)


class RemoteWeights(NamedTuple):
    """Weights that are fetched once."""

    url: str
    name: str
    """Of the file."""
    pin: str
    """What says which file it is: its sha256, or a commit."""


def find_weights_file(path: Path) -> Path:
    """Return the file of weights in a folder in hub layout; any other path as it is."""
    return next((path / name for name in HUB_FILES if (path / name).is_file()), path) if path.is_dir() else path


def is_remote(weights: str) -> bool:
    """Return whether weights are fetched, and are no file here."""
    return weights.startswith(HUB) or bool(_ADDRESS.match(weights))


def find_pin_problem(weights: str, sha256: str | None) -> str:
    """Return what is missing for fetched weights to be the same ones tomorrow; nothing where all is said."""
    if not weights.startswith(HUB):
        return (
            "" if sha256 else f"{weights} may give another file tomorrow; add its sha256: sha256sum of the file, once fetched"
        )
    found = _HUB.fullmatch(weights)
    if found is None:
        return f"{weights!r} is no place on the hub; write hf-hub:OWNER/NAME@COMMIT, or hf-hub:OWNER/NAME@COMMIT:FILE"
    if sha256 or _COMMIT.fullmatch(found["revision"] or ""):
        return ""
    said = f"{found['revision']} is a branch or tag, which moves" if found["revision"] else "no revision is named"
    return (
        f"{weights}: {said}; name the commit, 40 digits, as hf-hub:{found['repository']}@COMMIT (on the hub under Files, "
        "History), or add the file's sha256"
    )


def locate_remote(weights: str, sha256: str | None) -> RemoteWeights:
    """Return where pinned weights are fetched from.

    The hub is huggingface.co unless the environment variable `HF_ENDPOINT` names a mirror, as with the hub's own tools.
    """
    if not weights.startswith(HUB):
        name = weights.partition("?")[0].rstrip("/").rpartition("/")[2] or "weights"
        return RemoteWeights(weights, name, sha256 or "")
    found = _HUB.fullmatch(weights)
    assert found is not None  # noqa: S101 (`find_pin_problem` came first)
    revision, file = found["revision"] or "main", found["file"] or HUB_FILE
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    url = f"{endpoint}/{found['repository']}/resolve/{revision}/{file}"
    return RemoteWeights(url, file.rpartition("/")[2], sha256 or revision)
