"""Locate the layer in which a file of a bundle differs from the network that it came from (`compress verify --locate`).

A bundle holds no torch network, so a file is compared with another file of the same network that still gives the network's
answers: the first float file of the bundle that does, or a float32 ONNX file that is made anew from the student of a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compress.deployed.files import Pictures, choose_file, read_bundle, read_pictures
from compress.errors import CompressError
from compress.recipe import GateSection, load
from compress.records import METRICS, WEIGHTS, BundleFile, Manifest, Precision, StageResult, read
from compress.system.leftovers import make_temporary_folder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compress.events import Events
    from exporters.verification.bisect import LayerComparison
    from exporters.verification.intermediates import Graph

RECIPE = "recipe.yaml"
"""In the folder of a run."""
IMAGES = 8
"""So many images show every channel at work; more would only take memory."""


class _Reference(NamedTuple):
    """A file that is known to be good."""

    name: str
    precision: Precision
    graph: Graph
    images: NDArray[Any]
    """As it takes them."""


def locate_divergence(
    bundle: Path, *, file: str | None = None, against: Path | None = None, events: Events
) -> dict[str, LayerComparison]:
    """Compare the layers of files of a bundle with those of a good file of the same network.

    Args:
        bundle: A bundle or the folder of its run.
        file: Only this file, by its path in the bundle.
        against: A run whose student is the network that the files came from; default: another float file of the bundle, and
            where there is none the run itself whose folder was given.
        events: Where progress is reported.

    Raises:
        CompressError: The bundle is not what its manifest says, or holds nothing to compare with.
        Unreachable: There is no bundle or no run.
    """
    folder, manifest = read_bundle(bundle)
    chosen = manifest.files if file is None else (choose_file(manifest, file),)
    found: dict[str, LayerComparison] = {}
    alone = []
    with events.task("locate", total=len(chosen)) as task, _export_student(against, manifest, events) as made:
        for entry in chosen:
            located = _locate_in_file(folder, manifest, entry, None if made is None else (f"the student of {against}", made))
            found |= {entry.path: located} if located is not None else {}
            alone += [entry.path] if located is None else []
            task.advance()
    if not found and against is None and (bundle / RECIPE).is_file():
        return locate_divergence(bundle, file=file, against=bundle, events=events)
    if not found:
        raise CompressError(
            f"{folder / alone[0]}: the bundle has no other float file that gives the network's outputs; give --against RUN, "
            "the run that the bundle came from, whose student is then exported anew"
        )
    for name in alone:
        events.say(f"{name}: there is no other float file that gives the network's outputs, so it is not looked into")
    return found


def _locate_in_file(
    folder: Path, manifest: Manifest, entry: BundleFile, made: tuple[str, Path] | None
) -> LayerComparison | None:
    """Return where a file parts from a good one; `None` where there is no good one.

    Args:
        folder: The bundle.
        manifest: Of the bundle.
        entry: The file.
        made: What a good file is called that was made anew, and where it is.
    """
    from exporters.verification.bisect import TOLERANCE, compare_layers
    from exporters.verification.intermediates import open_graph

    pictures = read_pictures(folder, manifest)
    made_anew = None if made is None else _Reference(made[0], "fp32", open_graph(made[1]), pictures.images)
    reference = made_anew or _find_reference(folder, manifest, entry)
    if reference is None:
        return None
    against, other, good, images = reference
    rounder = max(entry.precision, other, key=TOLERANCE.__getitem__)  # a reference in fp16 is itself that far off
    graph, fed = open_graph(folder / entry.path), _choose_input(entry, pictures)
    return compare_layers((entry.path, graph, fed[:IMAGES]), (against, good, images[:IMAGES]), precision=rounder)


def _choose_input(entry: BundleFile, pictures: Pictures) -> NDArray[Any]:
    """Return the samples as a file takes them."""
    return pictures.pixels if entry.takes_pixels and pictures.pixels is not None else pictures.images


def _find_reference(folder: Path, manifest: Manifest, entry: BundleFile) -> _Reference | None:
    """Return another float file that still gives the network's outputs, if there is one."""
    import numpy as np

    import exporters
    from compress.tasks import load_task
    from exporters.bundle.bundle import read_samples
    from exporters.verification.intermediates import open_graph

    samples, pictures = read_samples(folder, manifest), read_pictures(folder, manifest)
    floats = [other for other in manifest.files if other.precision != "int8" and other is not entry]
    for other in sorted(floats, key=lambda other: (other.precision != "fp32", other.takes_pixels)):
        graph, images = open_graph(folder / other.path), _choose_input(other, pictures)
        logits = graph.run_unchanged(images).astype(np.float32)
        verdict = exporters.gate(
            samples.logits, logits, samples.labels, settings=GateSection(), precision=other.precision,
            task=load_task(manifest.task),
        )  # fmt: skip
        if verdict.status == "passed":
            return _Reference(other.path, other.precision, graph, images)
    return None


@contextmanager
def _export_student(run: Path | None, manifest: Manifest, events: Events) -> Iterator[Path | None]:
    """Give a float32 ONNX file of a run's student, for as long as it is needed.

    Raises:
        CompressError: The bundle came from another student, or the student's own file does not pass the gate either.
        Unreachable: There is no such run.
    """
    if run is None:
        yield None
        return
    from compress.run import reexport

    folder = reexport.find_run_folder(run)
    own = read(folder / "student" / METRICS, StageResult).files[WEIGHTS]
    if (source := manifest.provenance.get("weights", own)) != own:
        whose = f"its student has weights of sha256 {own[:12]}, the bundle was made of {source[:12]}"
        raise CompressError(f"{run}: {whose}; give --against the run that the bundle came from")
    sections = load(folder / RECIPE, ["exports=[{format: onnx, precision: fp32}]"]).exports
    with make_temporary_folder() as place:
        gates = reexport.export(folder, sections, out=place, events=events)
        made = place / "student-fp32.onnx"
        if not made.is_file():
            reasons = "; ".join(gate.reason for gate in gates.values())
            raise CompressError(f"{run}: the student's own ONNX file fails its gate ({reasons}); train it again")
        yield made
