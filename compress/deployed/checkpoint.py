"""Export weights that no run made: a network by its name or by a recipe, a file of weights, and what can be proved of them.

With a recipe its data is there, and each file is held to the gate on the validation split, with labels. With a name alone the
pictures are the user's, or drawn here; no labels are known, so what is proved is that a file gives the network's answers, and
nothing of how good these are. Verdicts, bundle and command say which of the two it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

import exporters
from benchmarks.devices.local import share_processes
from benchmarks.environment import read_environment
from benchmarks.protocol import Subject, make_runner
from compress import __version__, records
from compress.deployed.int8 import Compared, search_int8
from compress.deployed.predict import find_pictures
from compress.deployed.request import FEWEST_FOR_INT8, Request
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.models import Network, build_model
from compress.preprocess import decode, normalise
from compress.recipe import Recipe
from compress.records import Gate, Ladder, Preprocess
from compress.run import cache
from compress.run.context import REJECTED
from compress.run.data import prepare_data
from compress.system.files import hash_file, open_file
from compress.system.leftovers import make_temporary_folder
from compress.training import checkpoint
from exporters import About, Exporter, Quantizer
from exporters.bundle import bundle
from exporters.verification.interface import ExpectedInterface
from exporters.verification.judge import explain_unusable, judge

if TYPE_CHECKING:
    from compress.recipe import ExportSection

PHOTOGRAPHS = ("torchvision.", "timm.")
"""Families whose networks are mostly trained on photographs, as ImageNet's are prepared."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MIDDLE = (0.5, 0.25)
"""Mean and standard deviation of a channel of which nothing is known."""
PICTURES = 64
"""Pictures on which files are compared with their network, where no recipe says which; they travel in the bundle."""


class Given(NamedTuple):
    """A network with its weights, and pictures on which its files are compared with it."""

    recipe: Recipe
    network: Network
    classes: tuple[str, ...]
    preprocess: Preprocess
    images: NDArray[np.uint8]
    """[N, H, W, C]."""
    labels: NDArray[np.int64] | None
    """[N]; `None` where nobody knows them."""
    calibration: NDArray[np.uint8]
    """Pictures for ranges of int8, [M, H, W, C]; empty where there are none."""
    pictures: str
    """What the pictures are."""
    assumptions: tuple[str, ...] = ()
    """What was taken for granted since nobody said it."""


def export_named(weights: Path, request: Request, recipe: Recipe, *, out: Path, events: Events) -> dict[str, Gate]:
    """Export a file of weights for a network that is named.

    Args:
        weights: The file.
        request: What is known of the network.
        recipe: Of `make_recipe`.
        out: Folder to write; must not be there, or be empty.
        events: Where progress goes.

    Raises:
        CompressError: The weights are not of this network, a picture cannot be read, or there are too few of them for int8.
        Unreachable: A file is not there.
    """
    _refuse_full(out)
    with open_file(weights):  # a device or a pipe is no matter of the network
        pass
    return _export(weights, _load_named(weights, request, recipe, events), out, events)


def export_by_recipe(weights: Path, recipe: Recipe, *, base: Path, out: Path, events: Events) -> dict[str, Gate]:
    """Export a file of weights for the student of a recipe, judged on the validation split of its data.

    Args:
        weights: The file.
        recipe: Student, data, exports and gate are taken from it; nothing is trained.
        base: Folder at which its relative paths start.
        out: Folder to write; must not be there, or be empty.
        events: Where progress goes.

    Raises:
        CompressError: The weights are not of this student, or the data is not what the recipe says.
        Unreachable: A file is not there.
    """
    _refuse_full(out)
    if not recipe.exports:
        raise CompressError(f"{recipe.name}: names no exports; say what with --to, for example --to onnx:fp32")
    data = prepare_data(recipe.data, base=base, seed=recipe.seed, events=events)
    network = build_model(recipe.student.model, len(data.classes), data.sample_image(), recipe.student.options())
    _load_weights(network, weights, events)
    few = np.linspace(0, len(data.train.labels) - 1, min(recipe.int8.calibration_images, len(data.train.labels))).astype(int)
    given = Given(
        recipe, network, tuple(data.classes), data.preprocess, np.asarray(data.validation.images[:]), data.validation.labels,
        np.asarray(data.train.images[few]), f"validation split of {recipe.data.source}",
    )  # fmt: skip
    return _export(weights, given, out, events)


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CompressError(f"{out}: is there already and is not replaced; give another folder with --out, or remove it")


def _load_named(weights: Path, request: Request, recipe: Recipe, events: Events) -> Given:
    """Return the named network with its weights; of colour channels that nobody said, those that fit are taken."""
    usual = request.model.startswith(PHOTOGRAPHS)
    side = request.image_size or (32 if request.model.startswith(("resnet_cifar.", "wide_resnet.")) else 224)
    assumptions = [] if request.image_size else [f"images of {side} × {side} pixels (--image-size)"]
    channels = request.channels or "rgb"
    network = _build(request, recipe, side, channels)
    try:
        _load_weights(network, weights, events)
    except Unreachable:
        raise
    except CompressError as error:
        if request.channels is not None:
            raise
        channels = "gray"
        try:
            network = _build(request, recipe, side, channels)
            _load_weights(network, weights, events)
        except CompressError:
            raise CompressError(f"{error}; or correct --model or --classes") from error
    if request.channels is None:
        assumptions.append(f"{channels} pictures (--channels)")
    depth = 1 if channels == "gray" else 3
    mean, std = tuple(request.mean), tuple(request.std)
    if not mean:
        mean, std = IMAGENET if usual and depth == 3 else ((MIDDLE[0],) * depth, (MIDDLE[1],) * depth)
        source = "ImageNet's" if usual and depth == 3 else "nobody's in particular"
        assumptions.append(f"mean {', '.join(map(str, mean))} and std {', '.join(map(str, std))}, {source} (--mean, --std)")
    if len(mean) != depth or len(std) != depth or min(std) <= 0:
        raise CompressError(
            f"--mean {list(mean)} --std {list(std)}: {channels} pictures need {depth} numbers each, std above 0"
        )
    preprocess = Preprocess(height=side, width=side, channels=channels, mean=mean, std=std)
    pixels, calibration, pictures = _choose_pictures(request, preprocess, events)
    return Given(recipe, network, tuple(request.classes), preprocess, pixels, None, calibration, pictures, tuple(assumptions))


def _build(request: Request, recipe: Recipe, side: int, channels: str) -> Network:
    import torch

    image = torch.zeros(1, 1 if channels == "gray" else 3, side, side)
    return build_model(request.model, len(request.classes), image, recipe.student.options())


def _load_weights(network: Network, weights: Path, events: Events) -> None:
    loaded = checkpoint.load_weights(network, weights)
    if loaded.note:
        events.say(loaded.note)
    network.eval()


def _choose_pictures(
    request: Request, preprocess: Preprocess, events: Events
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """Return pictures to compare on [N, H, W, C], those for ranges of int8 [M, H, W, C], and what they are."""
    if request.images is None:
        drawn = draw_pictures(PICTURES, preprocess)
        return drawn, drawn[:0], f"{PICTURES} drawn pictures (noise and shapes), not yours"
    paths = find_pictures([request.images], events)
    chosen = [paths[place] for place in np.linspace(0, len(paths) - 1, min(4 * PICTURES, len(paths))).astype(int)]
    pixels = np.stack([decode(path, preprocess, str(path)) for path in chosen])
    compared, ranges = pixels[::2], pixels[1::2]
    return compared, ranges, f"{len(compared)} pictures of {request.images}"


def draw_pictures(count: int, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Draw pictures [N, H, W, C] that excite a network as photographs do: clouds of noise at every scale, with shapes."""
    random = np.random.default_rng(0)
    height, width, depth = preprocess.height, preprocess.width, preprocess.depth
    frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    scale = 1 / np.maximum(frequencies, 1 / max(height, width))  # photographs have as much in each octave
    pictures = np.empty((count, height, width, depth), np.uint8)
    for number in range(count):
        noise = np.fft.rfft2(random.standard_normal((depth, height, width))) * scale
        clouds = np.fft.irfft2(noise, (height, width)).transpose(1, 2, 0)
        clouds = (clouds - clouds.min()) / max(float(np.ptp(clouds)), 1e-9) * 255
        for _ in range(int(random.integers(0, 4))):
            top, left = int(random.integers(0, height)), int(random.integers(0, width))
            clouds[top : top + height // 3, left : left + width // 3] = random.integers(0, 256, depth)
        pictures[number] = clouds.astype(np.uint8)
    return pictures


def _export(weights: Path, given: Given, out: Path, events: Events) -> dict[str, Gate]:
    """Write every format, judge the files, keep those that failed apart, and write the bundle of the others."""
    import torch

    images = normalise(given.images, given.preprocess)
    with torch.no_grad():
        parts = [given.network(torch.from_numpy(images[start : start + 64])).float() for start in range(0, len(images), 64)]
        logits: NDArray[np.float32] = torch.cat(parts).numpy()
    labels = logits.argmax(axis=1) if given.labels is None else given.labels
    gates, passed = {}, []
    name = re.sub(r"[^A-Za-z0-9._-]", "_", weights.stem).lstrip("._-")[:80] or "network"
    with make_temporary_folder() as folder, exporters.reuse_graphs(), share_processes():
        for section in given.recipe.exports:
            exporter = exporters.load(section)
            path = exporter.name_file(folder, name)
            with events.task(f"export {path.name}", total=1, kind="export") as task:
                ladder = _write(given, section, exporter, path, images=images, logits=logits, labels=labels, events=events)
                task.advance()
            verdict, outputs = _judge(given, exporter, path, logits=logits, labels=labels, events=events)
            gates[path.name] = verdict
            place = out if verdict.status == "passed" else out / REJECTED
            for part in exporter.list_parts(path):
                cache.copy(part, place / part.name)
            records.save(place / f"{path.name}.gate.json", verdict)
            if ladder is not None:
                records.save(place / f"{path.name}.ladder.json", ladder)
                events.say(f"{path.name}: {_describe_ladder(ladder)}")
            if verdict.status == "passed" and exporter.inert:
                passed.append(bundle.Deployable(path, section.format, exporter, verdict, outputs[_choose_samples(labels)]))
        if passed:
            _write_bundle(weights, given, passed, out / "bundle", logits=logits, labels=labels, name=name)
    for line in describe_proof(given, logits):
        events.say(line)
    return gates


def _write(
    given: Given, section: ExportSection, exporter: Exporter, path: Path, *, images: NDArray[np.float32],
    logits: NDArray[np.float32], labels: NDArray[np.int64], events: Events,
) -> Ladder | None:  # fmt: skip
    """Write one file, and return how an int8 file was found.

    Raises:
        CompressError: The format cannot hold the network, or int8 has too few pictures.
    """
    import torch

    about = About(path.stem, given.classes, given.preprocess, {"made by": f"edge-compress {__version__}", "method": "given"})
    if exporter.precision != "int8":
        exporters.export(
            given.network, torch.from_numpy(images[:1]), path, format=section.format, options=section.options(), about=about
        )
        return None
    if len(given.calibration) < FEWEST_FOR_INT8:
        raise CompressError(
            f"precision int8: {len(given.calibration)} pictures for its ranges are too few; give at least "
            f"{2 * FEWEST_FOR_INT8} with --images (every other one is kept to compare on)"
        )
    compared = Compared(
        given.network, given.preprocess, given.images, logits, labels, given.recipe.gate,
        normalise(given.calibration, given.preprocess),
    )  # fmt: skip
    return search_int8(compared, cast("Quantizer", exporter), about, settings=given.recipe.int8, path=path, events=events)


def _describe_ladder(ladder: Ladder) -> str:
    """Return how an int8 file was found: the rung that made it, and those before."""
    tried = [f"{rung.rung} ({rung.status})" for rung in ladder.rungs]
    made = "no rung passed, the nearest is" if ladder.chosen is None else "made by"
    chosen = "none" if ladder.chosen is None else ladder.rungs[ladder.chosen].rung
    return f"{made} {chosen}; tried: {', '.join(tried)}"


def _judge(
    given: Given, exporter: Exporter, path: Path, *, logits: NDArray[np.float32], labels: NDArray[np.int64], events: Events
) -> tuple[Gate, NDArray[np.float32]]:
    """Return the verdict on a file, which without labels says nothing of accuracy, and its logits [N, K]."""
    subject = Subject(path.name, path, exporter.runtime, exporter.batch_size, exporter.takes_pixels, exporter.gives_class)
    expected = ExpectedInterface(
        given.preprocess, given.classes, exporter.batch_size, exporter.takes_pixels, exporter.gives_class
    )
    fed = given.images if exporter.takes_pixels else normalise(given.images, given.preprocess)
    run = make_runner(subject, events=events)
    try:
        outputs = run(fed, None)
        verdict = judge(
            path, expected, outputs, run, fed, reference=logits, labels=labels, settings=given.recipe.gate,
            precision=exporter.precision,
        )  # fmt: skip
    except CompressError as error:
        return explain_unusable(error, subject.runtime), np.zeros((0, 0), np.float32)
    if given.labels is not None:
        return verdict, outputs.logits
    note = "; ".join(filter(None, ["no labels are known, so the drop is of agreement and accuracy is unknown", verdict.note]))
    return verdict.model_copy(update={"accuracy": None, "note": note}), outputs.logits


def _choose_samples(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which of the pictures with labels [N] travel in the bundle."""
    return np.linspace(0, len(labels) - 1, min(PICTURES, len(labels))).astype(np.int64)


def _write_bundle(
    weights: Path, given: Given, passed: Sequence[bundle.Deployable], folder: Path, *, logits: NDArray[np.float32],
    labels: NDArray[np.int64], name: str,
) -> None:  # fmt: skip
    chosen = _choose_samples(labels)
    here = read_environment()
    known = "true" if given.labels is not None else "the network's own answers: no labels were given"
    bundle.write_bundle(
        folder, name=name, classes=given.classes, preprocess=given.preprocess, files=passed,
        samples=bundle.Samples(given.images[chosen], labels[chosen].astype(np.int64), logits[chosen]), gate=given.recipe.gate,
        provenance={
            "model": given.recipe.student.model, "weights": hash_file(weights), "method": "given, not trained here",
            "pictures": given.pictures, "labels": known, "assumed": "; ".join(given.assumptions) or "nothing",
            "machine": here.cpu, **{f"package.{package}": version for package, version in here.packages.items()},
        },
    )  # fmt: skip


def describe_proof(given: Given, logits: NDArray[np.float32]) -> Iterator[str]:
    """Yield what the verdicts prove and what not, and what was taken for granted.

    Args:
        given: Network and pictures.
        logits: Of the network, [N, K].
    """
    if given.labels is not None:
        top1 = 100 * float((logits.argmax(axis=1) == given.labels).mean())
        yield f"proved on the {given.pictures}, {len(given.labels)} images, where the network itself has {top1:.1f} % top-1"
    else:
        yield (
            f"proved: on {given.pictures}, the files give the network's answers. Not proved: that these are right, for no "
            "labels are known; --recipe FILE with your data judges that, too"
        )
        distinct = len(np.unique(logits.argmax(axis=1)))
        if distinct < min(3, logits.shape[1]):
            yield (
                f"the network puts these pictures into {distinct} of {logits.shape[1]} classes, so agreement says little; "
                "give pictures of yours with --images FOLDER"
            )
    if given.assumptions:
        yield f"taken for granted: {'; '.join(given.assumptions)}; give what is otherwise, or predict.py answers wrongly"
