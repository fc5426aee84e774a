"""Obtain the weights that a network starts from: a file here, or one that is fetched once into the runs' cache."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.models import Published, find_published
from compress.recipe import Recipe, StartSection, TeacherSection, get_sides
from compress.recipe.weights import HUB, HUB_FILE, RemoteWeights, find_pin_problem, find_weights_file, is_remote, locate_remote
from compress.records import CROP_FRACTION
from compress.run.context import Run
from compress.system.download import TIMEOUT_SECONDS, fetch_file
from compress.system.files import read_bounded, resolve_path, write_whole
from compress.text import name_teacher

FOLDER = "weights"
"""Of the runs' cache: fetched files, each in a folder named by its pin."""
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SUMS_BYTES = 1 << 10


def get_published(section: StartSection) -> Published | None:
    """Return what the package of a network says of the weights that a recipe names; nothing where it names none.

    Raises:
        CompressError: The package has no such weights.
    """
    return None if section.pretrained is None else find_published(section.model, section.pretrained, section.options())


def list_published_notes(recipe: Recipe) -> Iterator[str]:
    """Yield where pictures come to a network otherwise than its package says of the published weights that it starts from.

    Raises:
        CompressError: The package has no such weights.
    """
    names = [name_teacher(index, len(recipe.teacher)) for index in range(len(recipe.teacher))]
    for where, section in [*zip(names, recipe.teacher, strict=True), ("student", recipe.student)]:
        published = get_published(section)
        if published is None:
            continue
        size = section.image_size if isinstance(section, TeacherSection) else None
        height, width = recipe.data.sides if size is None else get_sides(size)
        side, share, data = published.image_size, published.crop_fraction, recipe.data
        fraction = (data.crop_fraction or CROP_FRACTION) if data.geometry == "center_crop" else 1.0
        given = (height, width, data.geometry, round(fraction, 2), data.interpolation)
        if given != (side, side, "center_crop" if share < 1 else data.geometry, round(share, 2), published.interpolation):
            own = f"geometry: center_crop, crop_fraction: {share:.3g}" if share < 1 else "no crop"
            crop = f", crop_fraction: {fraction:g}" if data.geometry == "center_crop" else ""
            yield (
                f"{where}: {published.name} was made for {side} × {side} pixels, {own}, interpolation: "
                f"{published.interpolation}; it gets {height} × {width} pixels, geometry: {data.geometry}{crop}, "
                f"interpolation: {data.interpolation} (section data)"
            )


def obtain_weights(run: Run, section: StartSection, where: str) -> Path:
    """Return the file of the weights of a section that has some; it is fetched where it is not there yet.

    Raises:
        CompressError: The weights are not pinned, or what arrives is not what was named.
        Unreachable: They are not there, or the network is not.
    """
    weights, sha256 = section.weights, section.sha256
    published = get_published(section)
    if published is not None:
        weights, sha256 = published.source, section.sha256 or published.sha256
        if not sha256:
            raise CompressError(
                f"{where}.pretrained: {published.name} lies at {weights}, and its package states no checksum; add the sha256 "
                f"of its {HUB_FILE if weights.startswith(HUB) else 'file'}, or give weights: hf-hub:OWNER/NAME@COMMIT"
            )
    if weights is None:
        raise CompressError(f"{where}: has no weights; name a file in its section")
    if not is_remote(weights):
        return find_weights_file(resolve_path(run.base, weights))
    problem = find_pin_problem(weights, sha256)
    if problem:
        raise CompressError(f"{where}.weights: {problem}")
    return fetch_weights(locate_remote(weights, sha256), run.cache.folder / FOLDER, run.events)


def fetch_weights(remote: RemoteWeights, folder: Path, events: Events | None = None) -> Path:
    """Return the file of pinned weights in a folder of the cache, fetched now unless it is there.

    Raises:
        CompressError: What arrives is not what was named, or the hub states no checksum of it.
        Unreachable: The network is not there.
    """
    home = folder / remote.pin
    sums = home / f"{remote.name}.sha256"
    if not _is_commit(remote.pin):
        return fetch_file(remote.url, home / remote.name, sha256=remote.pin, events=events)
    if not sums.is_file():
        found = _ask_hub(remote, home / remote.name)
        with write_whole(sums, durable=True) as temporary:
            temporary.write_text(f"{found}  {remote.name}\n", encoding="utf-8")
    sha256 = read_bounded(sums, limit_bytes=_SUMS_BYTES, what="a checksum").decode("ascii", "replace").partition(" ")[0]
    if not _SHA256.fullmatch(sha256):
        raise CompressError(f"{sums}: holds no sha256; remove it, and the hub is asked again")
    return fetch_file(remote.url, home / remote.name, sha256=sha256, events=events)


def _is_commit(pin: str) -> bool:
    return len(pin) == 40


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the hub's own answer has the checksum, and where it leads to has none."""

    def redirect_request(self, *_arguments: object) -> None:
        """Return nothing."""


def _ask_hub(remote: RemoteWeights, path: Path) -> str:
    """Return the sha256 that the hub states for a file of a commit.

    Raises:
        CompressError: It states none.
        Unreachable: It cannot be reached, or has no such file.
    """
    request = urllib.request.Request(remote.url, method="HEAD", headers={"User-Agent": "edge-compress"})  # noqa: S310 (http or https)
    advice = (
        f"on a machine without network, fetch that file elsewhere, and name it as weights: FILE with its sha256 (not {path})"
    )
    try:
        with urllib.request.build_opener(_Stay()).open(request, timeout=TIMEOUT_SECONDS) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        error.close()
        headers = error.headers
        if not 300 <= error.code < 400:
            raise Unreachable(f"{remote.url}: the hub answers {error.code} ({error.reason}); {advice}") from error
    except (OSError, HTTPException) as error:
        raise Unreachable(f"{remote.url}: cannot be fetched ({getattr(error, 'reason', error)}); {advice}") from error
    stated = (headers.get("X-Linked-Etag") or headers.get("ETag") or "").strip('W/"')
    if not _SHA256.fullmatch(stated):
        raise CompressError(f"{remote.url}: the hub states no sha256 of it; add the file's sha256 to the recipe")
    return stated
