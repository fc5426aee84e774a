"""Hand over the files that passed their gate as a bundle, and keep the others apart with the reason beside them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import exporters
from benchmarks.environment import read_environment
from compress import plugins, records
from compress.recipe import canonical
from compress.records import Headline, Variant
from compress.records.training import WEIGHTS
from compress.run import cache, placement
from compress.run.context import REJECTED, Run, Trained
from compress.run.export import TORCH, ExportedFile
from compress.run.measure import MeasuredFiles
from compress.run.placement import BUNDLE
from compress.run.verify import SplitLogits, select_samples
from compress.system.files import writable
from compress.system.leftovers import name_beside, remove, remove_leftovers
from exporters.bundle import bundle

FILES = "files"
"""Folder of the files that passed and are in no bundle."""


def hand_over(
    run: Run, shipped: Trained, files: Sequence[ExportedFile], logits: SplitLogits, measured: MeasuredFiles, *,
    headline: Headline | None, place: str = BUNDLE, elsewhere: Mapping[str, tuple[Variant, ...]] | None = None,
) -> list[str]:  # fmt: skip
    """Write the bundle of all files that passed, keep the others apart with the reason beside them, and keep earlier bundles.

    Args:
        run: Run context.
        shipped: The network that the files are of.
        files: All files of the run; those of other networks are left out.
        logits: Of the network.
        measured: All files with what was measured.
        headline: For the model card; `None` where it is not known.
        place: Name of the bundle's folder; what failed is kept only for the run's own.
        elsewhere: What other devices gave for each file, by its name.

    Returns:
        What became of an earlier bundle, and why there is none, a sentence each.

    Raises:
        Unreachable: The disk is full or a folder cannot be written.
    """
    offered = [item for item in files if item.variant.network == shipped.name and item.section.format != TORCH]
    target = run.folder / place
    if not offered:
        return placement.leave_bundle(target)
    if place == BUNDLE:
        _keep_files(run.folder / REJECTED, [item for item in offered if item.gate.status == "failed"])
    passed = [item for item in offered if item.gate.status == "passed" and item.outputs is not None]
    bundled = [item for item in passed if run.data.task.has_bundle and exporters.load(item.section).inert]
    kept = [item for item in passed if item not in bundled]
    said = []
    if kept and place == BUNDLE:
        _keep_files(run.folder / FILES, kept)
        said = [_explain_kept(run, kept)]
    if not bundled:
        return [*said, *placement.set_aside(target)]
    with writable(target):
        run.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(run.folder)
    fresh = name_beside(target)
    try:
        _write_bundle(run, shipped, bundled, logits, measured, headline=headline, folder=fresh, elsewhere=elsewhere or {})
        return [*said, *placement.place_bundle(fresh, target)]
    finally:
        remove(fresh)


def _keep_files(folder: Path, files: Sequence[ExportedFile]) -> None:
    """Copy files into a folder of their own, each with the verdict of its gate; what lay there before goes."""
    with writable(folder):
        shutil.rmtree(folder, ignore_errors=True)
    for item in files:
        for part in exporters.load(item.section).list_parts(item.path):
            cache.copy(part, folder / part.name)
        records.save(folder / f"{item.path.name}.gate.json", item.gate)


def _explain_kept(run: Run, kept: Sequence[ExportedFile]) -> str:
    """Return where files are that passed and are in no bundle, and why."""
    task = run.data.task
    names = ", ".join(item.path.name for item in kept)
    why = "to open such a file can run code" if task.has_bundle else f"no bundle can be made for the task {task.name}"
    return f"{run.folder / FILES}: holds {names}, which passed: {why}"


def _write_bundle(
    run: Run, shipped: Trained, passed: Sequence[ExportedFile], logits: SplitLogits, measured: MeasuredFiles, *,
    headline: Headline | None, folder: Path, elsewhere: Mapping[str, tuple[Variant, ...]],
) -> None:  # fmt: skip
    held = run.data.validation
    chosen = select_samples(run)
    files = [
        bundle.Deployable(
            item.path, item.section.format, exporters.load(item.section), item.gate, item.outputs,
            measured.variants[item.variant.name].model_copy(update={"correct": "", "tallies": ""}),  # of no use there
            item.logits.validation[chosen] if item.adapted else None,
            elsewhere.get(item.variant.name, ()),
        )
        for item in passed
        if item.outputs is not None
    ]  # fmt: skip
    bundle.write_bundle(
        folder, name=run.recipe.name, classes=run.data.classes, preprocess=run.data.preprocess, files=files,
        samples=bundle.Samples(held.images[chosen], held.labels[chosen], logits.validation[chosen]),
        gate=run.recipe.gate, provenance={
            "recipe": canonical(run.recipe), "seed": str(run.seed), "method": shipped.method,
            "weights": shipped.results[-1].files[WEIGHTS], "data": run.recipe.data.source,
            "machine": (measured.environment or read_environment()).cpu,
            **_describe_calibration(shipped),
            **{f"package.{name}": version for name, version in read_environment().packages.items()},
        },
        background=_describe_background(run, shipped, logits, measured, headline), task=run.data.task,
    )  # fmt: skip


def _describe_calibration(shipped: Trained) -> dict[str, str]:
    """Return what divided the logits within the network, if anything did."""
    temperature = shipped.results[-1].temperature
    return {} if temperature is None else {"calibrated": f"logits divided by {temperature:.6g} in the last layer"}


def _describe_background(
    run: Run, shipped: Trained, logits: SplitLogits, measured: MeasuredFiles, headline: Headline | None
) -> bundle.Background:
    """Return the facts of the model card that the files do not hold."""
    teachers = [row for row in measured.variants.values() if row.format == TORCH and row.network != shipped.name]
    return bundle.Background(
        recipe=run.recipe,
        method=shipped.method,
        teachers=tuple(teachers),
        images={name: len(getattr(run.data, name).labels) for name in ("train", "validation", "test")},
        labels=run.data.test.labels,
        predicted=run.data.test.labels if run.data.task.is_dense else logits.test.argmax(axis=1),
        data_licence=getattr(plugins.load("data", run.recipe.data.source), "licence", ""),
        seconds=sum(result.seconds for result in shipped.results),
        environment=measured.environment or read_environment(),
        headline=headline,
    )
