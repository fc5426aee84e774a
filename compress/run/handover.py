"""Hand over the files that passed their gate as a bundle, and keep the others apart with the reason beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

import exporters
from benchmarks.environment import read_environment
from compress import plugins, records
from compress.recipe import canonical
from compress.records.training import WEIGHTS
from compress.run import cache
from compress.run.context import REJECTED, Run, Trained
from compress.run.export import TORCH, ExportedFile
from compress.run.measure import MeasuredFiles
from compress.run.verify import SplitLogits, select_samples
from compress.system.files import writable
from exporters.bundle import bundle


def hand_over(run: Run, shipped: Trained, files: Sequence[ExportedFile], logits: SplitLogits, measured: MeasuredFiles) -> None:
    """Write the bundle of all files that passed, and keep the others apart with the reason beside them."""
    offered = [item for item in files if item.variant.network == shipped.name and item.section.format != TORCH]
    rejected = run.folder / REJECTED
    with writable(rejected):
        shutil.rmtree(rejected, ignore_errors=True)
    for item in offered:
        if item.gate.status == "failed":
            for part in exporters.load(item.section).list_parts(item.path):
                cache.copy(part, rejected / part.name)
            records.save(rejected / f"{item.path.name}.gate.json", item.gate)
    held = run.data.validation
    chosen = select_samples(run)
    passed = [
        bundle.Deployable(
            item.path, item.section.format, exporters.load(item.section), item.gate, item.outputs,
            measured.variants[item.variant.name], item.logits.validation[chosen] if item.adapted else None,
        )
        for item in offered
        if item.gate.status == "passed" and item.outputs is not None
    ]  # fmt: skip
    if not passed:
        with writable(run.folder):
            shutil.rmtree(run.folder / "bundle", ignore_errors=True)  # of an earlier run, with another student
        return
    bundle.write_bundle(
        run.folder / "bundle", name=run.recipe.name, classes=run.data.classes, preprocess=run.data.preprocess, files=passed,
        samples=bundle.Samples(held.images[chosen], held.labels[chosen], logits.validation[chosen]),
        gate=run.recipe.gate, provenance={
            "recipe": canonical(run.recipe), "seed": str(run.seed), "method": shipped.method,
            "weights": shipped.results[-1].files[WEIGHTS], "data": run.recipe.data.source,
            "machine": (measured.environment or read_environment()).cpu,
            **{f"package.{name}": version for name, version in read_environment().packages.items()},
        },
        background=_describe_background(run, shipped, logits, measured),
    )  # fmt: skip


def _describe_background(run: Run, shipped: Trained, logits: SplitLogits, measured: MeasuredFiles) -> bundle.Background:
    """Return the facts of the model card that the files do not hold."""
    teachers = [row for row in measured.variants.values() if row.format == TORCH and row.network != shipped.name]
    return bundle.Background(
        recipe=run.recipe,
        method=shipped.method,
        teachers=tuple(teachers),
        images={name: len(getattr(run.data, name).labels) for name in ("train", "validation", "test")},
        labels=run.data.test.labels,
        predicted=logits.test.argmax(axis=1),
        data_licence=getattr(plugins.load("data", run.recipe.data.source), "licence", ""),
        seconds=sum(result.seconds for result in shipped.results),
        environment=measured.environment or read_environment(),
    )
