"""Load the teachers of a run, or train them, or their classifiers alone, on the labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.data import Split
from compress.fingerprint import make_key
from compress.input_probes import Convention
from compress.methods import Setting
from compress.methods.supervised import Supervised
from compress.models import Network
from compress.recipe import TeacherSection, get_sides
from compress.run.build import build_network, find_input_format, load_given_teacher, start_from_weights
from compress.run.context import Run, Trained
from compress.run.probe import fit_teacher
from compress.run.stage import train_stage
from compress.run.students import describe_model
from compress.run.weights import obtain_weights
from compress.system.files import hash_file
from compress.tasks import CLASSIFICATION
from compress.text import name_teacher
from compress.training import evaluate, preflight
from compress.training.given_teacher import (
    CONFIRMED,
    FEWEST_SCREENED,
    FURTHER,
    HeldOut,
    InputNow,
    check_given_teacher,
)
from compress.training.network_checks import check_outputs

MOST_BYTES = 1 << 28
"""Of held-out images that a given teacher is tried on, as float32."""


def obtain_teacher(run: Run, index: int, section: TeacherSection) -> Trained:
    """Return a teacher: from the user's file, or trained on the labels.

    Raises:
        CompressError: Its weights do not fit, or it is not fit to teach.
        Unreachable: Its file is not there.
    """
    name = name_teacher(index, len(run.recipe.teacher))
    model = describe_model(section)
    if section.is_given:
        given = load_given_teacher(run, section, name)
        is_classified = run.data.task.name == CLASSIFICATION.name
        looks = section.knows_classes and is_classified
        warning = _check_given(run, name, given.network, section) if looks else ""
        if not is_classified:
            run.events.say(f"{name}: whether it should be fed otherwise was not tried, for its task is {run.data.task.name}")
        known = given.order if section.knows_classes else section.classes
        key = make_key(weights=hash_file(obtain_weights(run, section, name)), model=model, classes=known)
        trained = Trained(name, "given", given.network, (), key, None)
        if warning:
            run.events.warn(f"warning: {warning}")
    elif section.probe is not None:
        trained = fit_teacher(run, name, section, section.probe)
    else:
        settings = section.train or run.recipe.train
        network = build_network(run, section, name)
        note = start_from_weights(run, section, name, network)
        if note:
            run.events.say(f"{name}: {note}")
        method = Supervised(Setting(network, (), run.data.sample_image(), len(run.data.classes), task=run.data.task))
        reads: dict[str, object] = {"model": model, "role": name}
        if section.has_weights:
            reads |= {
                "weights": hash_file(obtain_weights(run, section, name)), "weights_map": section.weights_map,
                "input": list(find_input_format(section, run.data.preprocess)),
            }  # fmt: skip
        trained = train_stage(run, name, method, settings, reads=reads, method_name="supervised")
    if not section.knows_classes:
        fed = _describe_input(run, section)
        run.events.say(
            f"{name}: {section.model} from {section.describe_weights()}, whose maps alone teach; whether it is fed as it was "
            f"trained cannot be seen by its answers: {fed}"
        )
        return trained
    logits = evaluate.compute_logits(trained.network, run.batch_in_order(run.data.validation))
    check_outputs(name, logits)
    found = preflight.check_teacher(name, logits, run.validation_labels, run.data.classes, run.data.task)
    if trained.folder is None:
        fed = _describe_input(run, section)
        known = run.data.task.describe(found)
        run.events.say(f"{name}: {section.model} from {section.describe_weights()}, {known} on validation, {fed}")
    return trained


def _describe_input(run: Run, section: TeacherSection) -> str:
    """Return in words how a given teacher is fed."""
    declared = section.mean is not None or section.std is not None or section.pretrained is not None
    origin = "its own" if declared else "given" if run.recipe.data.mean and run.recipe.data.std else "the training images'"
    channels = f", {section.channels}" if section.channels else ""
    size = f", {' × '.join(map(str, dict.fromkeys(get_sides(section.image_size))))} pixels" if section.image_size else ""
    size += f", {section.geometry}" if section.geometry != "squeeze" else ""
    return f"normalised with {origin} mean and std{channels}{size}"


def _check_given(run: Run, name: str, network: Network, section: TeacherSection) -> str:
    """Return what people should know of a given teacher; one that would be far better if it were fed otherwise is refused."""
    wanted, data = find_input_format(section, run.data.preprocess), run.data
    step = -1 if wanted.channels == "bgr" else 1
    convention = Convention("", wanted.mean[::step], wanted.std[::step], wanted.channels == "bgr")
    most = max(FEWEST_SCREENED, MOST_BYTES // (4 * math.prod(data.validation.images.shape[1:])))
    rows = _draw(np.arange(len(data.validation.labels)), min(CONFIRMED, most))

    def take_training_images(classes: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        labels = data.train.labels
        chosen = np.concatenate([_draw(np.flatnonzero(labels == label), FURTHER) for label in classes])
        return _scale(data.train, chosen), labels[chosen]

    held_out = HeldOut(_scale(data.validation, rows), data.validation.labels[rows], take_training_images)
    return check_given_teacher(name, network, held_out, data.classes, InputNow(convention, wanted.channels == "gray"))


def _draw(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return some of the rows in order, drawn evenly."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:most])


def _scale(split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the images in some rows of a split as shares from 0 to 1, [n, C, H, W]."""
    return split.images[rows].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
