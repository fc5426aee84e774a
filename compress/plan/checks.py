"""Checks of a recipe beyond its types: files, fields against each other, fields against the data.

Needs no torch. Every check yields all that it finds; what only a network can show is left to `compress.run.dry_run`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress import plugins
from compress.data import list_unlabelled, name_task
from compress.errors import CompressError, Unreachable
from compress.plan.devices import find_device_problems
from compress.preprocess import MAX_PIXELS
from compress.recipe import Recipe, StartSection, TeacherSection
from compress.recipe.checks import find_drift_problem
from compress.recipe.class_order import resolve_class_order
from compress.recipe.weights import HUB_FILES, find_pin_problem, find_weights_file, is_remote
from compress.records import DEPTHS
from compress.system.files import hash_file, resolve_path
from compress.system.memory import Storage, choose_place
from compress.system.processors import count_processors
from compress.text import name_teacher, quantify

if TYPE_CHECKING:
    from compress.data import Source, Summary


NEED_ONE_CLASS = frozenset({"dkd"})
"""Methods that read the class of each image and not only its loss."""


def join_problems(problems: Sequence[CompressError]) -> CompressError:
    """Return one error with a line for each problem; `Unreachable` if all that is wrong is that something is not there."""
    kind = Unreachable if all(isinstance(problem, Unreachable) for problem in problems) else CompressError
    return kind("\n".join(str(problem) for problem in problems))


def list_foreign_code(recipe: Recipe) -> tuple[str, ...]:
    """Return a line for everything of others that a recipe names and a run or check imports; nothing is imported here."""
    named: list[tuple[plugins.Kind, str]] = [("data", recipe.data.source)]
    named += [("models", section.model) for section in (*recipe.teacher, recipe.student)]
    named += [("methods", section.name) for methods in (recipe.method, *recipe.baselines) for section in methods]
    named += [("exporters", section.format) for section in recipe.exports]
    named += [("devices", section.device) for section in recipe.measure.devices]
    named += [("trackers", section.tracker) for section in recipe.track]
    foreign = {pair: plugins.describe(*pair) for pair in named if plugins.describe(*pair).origin != "ours"}
    return tuple(f"runs code that is not ours: {kind}/{name} from {each.path}" for (kind, name), each in foreign.items())


def count_split_images(recipe: Recipe, summary: Summary) -> dict[str, int]:
    """Return the images of each split; validation is rounded up, as `compress.data` does."""
    validation = math.ceil(summary.train_images * recipe.data.validation_fraction)
    left = summary.train_images - validation
    return {"train": min(recipe.data.train_images or left, left), "validation": validation, "test": summary.test_images}


def find_recipe_problems(recipe: Recipe, base: Path) -> Iterator[CompressError]:
    """Yield the problems that show without looking at the data."""
    for index, teacher in enumerate(recipe.teacher):
        where = name_teacher(index, len(recipe.teacher), separator=".")
        yield from _find_start_problems(where, teacher, base)
        if teacher.classes is not None and not teacher.is_given:
            yield CompressError(f"{where}.classes: is for a teacher that is given, and this one is trained here; remove it")
        yield from _find_own_problems(where, teacher)
    if recipe.gate.max_drop_from_teacher_points is not None and not any(each.knows_classes for each in recipe.teacher):
        yield CompressError("gate.max_drop_from_teacher_points: no teacher knows the classes (classes: none); remove it")
    yield from _find_start_problems("student", recipe.student, base)
    yield from _find_export_problems(recipe)
    yield from _find_measure_problems(recipe)
    for index, teacher in enumerate(recipe.teacher):
        if teacher.train is not None and teacher.train.device not in ("auto", recipe.train.device):
            yield CompressError(
                f"teacher.{index}.train.device: the run trains on train.device ({recipe.train.device}); say it there"
            )
    yield from _find_geometry_problems(recipe)
    yield from _find_augmentation_problems(recipe)
    trainings = [("train", recipe.train), *((f"teacher.{i}.train", t.train) for i, t in enumerate(recipe.teacher) if t.train)]
    for where, train in trainings:
        if train.nesterov and train.momentum == 0:
            yield CompressError(f"{where}.nesterov: needs a momentum, and {where}.momentum is 0; set one, or remove nesterov")
        if train.warmup_epochs >= train.epochs:
            yield CompressError(
                f"{where}.warmup_epochs: {train.warmup_epochs:g} leaves nothing of {train.epochs} epochs; lower it"
            )
    yield from _find_drift_problems(recipe)


def _find_own_problems(where: str, teacher: TeacherSection) -> Iterator[CompressError]:
    """Yield a geometry without a size, and a probe of a network that has learnt nothing, or that is trained as well."""
    if teacher.geometry != "squeeze" and teacher.image_size is None:
        yield CompressError(
            f"{where}.geometry: {teacher.geometry} is how images come to {where}.image_size, which is not given; add it, or "
            "remove the geometry"
        )
    if teacher.probe is not None and not teacher.has_weights:
        yield CompressError(
            f"{where}.probe: fits a classifier to a network that starts from weights, and {where}.weights names none; add it"
        )
    if teacher.probe is not None and teacher.train is not None:
        yield CompressError(
            f"{where}.probe: leaves all but the classifier as it is, and {where}.train trains the network; remove one of them"
        )


def _find_drift_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield methods whose penalty on drift cannot be trained at this learning rate."""
    groups = [("method", recipe.method), *((f"baselines.{i}", methods) for i, methods in enumerate(recipe.baselines))]
    for group, methods in groups:
        for index, section in enumerate(methods):
            where = group if len(methods) == 1 else f"{group}.{index}"
            weight = section.options().get("drift_weight", 0.0)
            problem = find_drift_problem(where, weight, teachers=max(len(recipe.teacher), 1), train=recipe.train)
            if problem is not None:
                yield problem


def _find_geometry_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield fields of another geometry than the one that is chosen."""
    for field, geometry in (("crop_fraction", "center_crop"), ("fill", "letterbox")):
        if getattr(recipe.data, field) is not None and recipe.data.geometry != geometry:
            yield CompressError(
                f"data.{field}: belongs to geometry {geometry}, and data.geometry is {recipe.data.geometry}; remove one of them"
            )


def _find_augmentation_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield sizes, views and borders that make no sense, and an engine that the device does not have."""
    data = recipe.data
    if data.views is not None and not (data.crop_padding or data.flip or data.augment.is_on):
        yield CompressError(
            "data.views: has no effect without crop_padding or flip, or an augment, as all views are the same; remove it"
        )
    yield from _find_label_problems(recipe)
    yield from _find_unlabelled_problems(recipe)
    if math.prod(recipe.data.sides) > MAX_PIXELS:
        height, width = recipe.data.sides
        yield CompressError(f"data.image_size: {height} × {width} pixels are more than {MAX_PIXELS:,}; lower it")
    if recipe.data.augmentation_seed >= 2**63:
        yield CompressError(f"data.augmentation_seed: {recipe.data.augmentation_seed} is not below 2^63; choose a smaller one")
    if recipe.train.device == "cpu" and recipe.teacher_outputs.engine == "fp16":
        yield CompressError("teacher_outputs.engine: 'fp16' runs on a GPU only, and train.device is cpu; use auto")
    if recipe.data.crop_border != "reflect" and not recipe.data.crop_padding:
        yield CompressError("data.crop_border: has no effect without crop_padding; set one, or remove it")
    if recipe.data.crop_padding >= min(recipe.data.sides):
        yield CompressError(
            f"data.crop_padding: {recipe.data.crop_padding} is not less than data.image_size {min(recipe.data.sides)}; "
            "a border cannot be reflected further than the image goes"
        )


def count_unlabelled(recipe: Recipe, base: Path) -> int:
    """Return how many pictures without labels there are.

    Raises:
        CompressError: Their folder holds something else, or nothing.
        Unreachable: It is not there.
    """
    return 0 if recipe.data.unlabelled is None else len(list_unlabelled(resolve_path(base, recipe.data.unlabelled)))


def _find_unlabelled_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield what makes no sense for images without a class."""
    for field in _list_unlabelled_fields(recipe):
        if recipe.train.sampling == "balanced":
            yield CompressError(
                f"train.sampling: balanced shows all classes equally often, and pictures without labels ({field}) have none; "
                "remove one of the two"
            )


def _list_unlabelled_fields(recipe: Recipe) -> Iterator[str]:
    """Yield the fields that bring pictures without labels."""
    return (f"data.{name}" for name in ("unlabelled", "student_labels") if getattr(recipe.data, name) is not None)


def _find_label_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield methods that need one class for each image, where labels are shares of several or are weighed."""
    soft = "data.augment.mixup" if recipe.data.augment.mixup else "data.augment.cutmix" if recipe.data.augment.cutmix else ""
    if not soft and recipe.train.label_smoothing:
        soft = "train.label_smoothing"
    if not soft and recipe.train.class_weights != "none":
        soft = "train.class_weights"
    for methods in (recipe.method, *recipe.baselines):
        for section in methods:
            if soft and section.name in NEED_ONE_CLASS:
                yield CompressError(
                    f"{soft}: method {section.name!r} splits its loss at the one class of each image, and there would be none; "
                    "remove one of the two, or use method 'kd'"
                )


def _find_export_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield exports that their format does not offer, and pairs that would write the same file."""
    import exporters

    seen: dict[str, int] = {}
    for index, section in enumerate(recipe.exports):
        try:
            exporter = exporters.load(section)
            name = exporter.name_file(Path(), "student").name
        except CompressError as error:
            yield type(error)(f"exports.{index}: {error}")
            continue
        sizes = (None, recipe.measure.batch_size, recipe.measure.throughput_batch_size)
        if exporter.batch_size not in sizes:
            yield CompressError(
                f"exports.{index}: takes {exporter.batch_size} images in a call and would never be timed; set "
                "measure.batch_size or measure.throughput_batch_size to that"
            )
        first = seen.setdefault(name, index)
        if first != index:
            yield CompressError(f"exports.{index}: writes {name} like exports.{first}; remove one of them")


def _find_measure_problems(recipe: Recipe) -> Iterator[CompressError]:
    """Yield devices that cannot be used, and more threads than this machine has processors for."""
    yield from find_device_problems(recipe)
    available = count_processors()
    if recipe.measure.threads > available:
        yield CompressError(
            f"measure.threads: {recipe.measure.threads} is more than the {quantify(available, 'logical processor')} of this "
            "machine that a process here may use; lower it"
        )


def _find_start_problems(where: str, section: StartSection, base: Path) -> Iterator[CompressError]:
    """Yield weights that are not there, or not said so that they are the same tomorrow."""
    if section.weights is not None and section.pretrained is not None:
        yield CompressError(f"{where}.pretrained: {where}.weights names weights, too; remove one of them")
    if not section.has_weights:
        for field, value in (("sha256", section.sha256), ("weights_map", section.weights_map), ("ema", section.ema or None)):
            if value is not None:
                what = "the checksum of a file" if field == "sha256" else "for weights from a file"
                yield CompressError(f"{where}.{field}: is {what}, but {where}.weights names none; add it")
    if section.weights is None:
        return
    if is_remote(section.weights):
        problem = find_pin_problem(section.weights, section.sha256)
        if problem:
            yield CompressError(f"{where}.weights: {problem}")
        return
    yield from _find_file_problems(where, section.weights, section.sha256, base)


def _find_file_problems(where: str, weights: str, sha256: str | None, base: Path) -> Iterator[CompressError]:
    path = find_weights_file(resolve_path(base, weights))
    if path.is_dir():
        yield Unreachable(f"{where}.weights: {path}: is a folder without {' or '.join(HUB_FILES)}; name the file in it")
    elif path.exists() and not path.is_file():
        yield Unreachable(
            f"{where}.weights: {path}: is a device or a pipe, not a file; write what it gives to a file, and name that"
        )
    elif not path.is_file():
        yield Unreachable(f"{where}.weights: {path}: there is no such file; paths start at the recipe's folder")
    elif sha256 is not None and (actual := hash_file(path)) != sha256:
        yield CompressError(f"{where}.sha256: {path} has {actual}; it is another file, or the checksum is of another version")


def find_data_problems(recipe: Recipe, source: Source, summary: Summary, base: Path) -> Iterator[CompressError]:
    """Yield where recipe and data contradict."""
    channels = DEPTHS[source.channels]
    yield from _find_teacher_problems(recipe, source, summary, base)
    for name, values in (("mean", recipe.data.mean), ("std", recipe.data.std)):
        if values is not None and len(values) != channels:
            yield CompressError(
                f"data.{name}: has {len(values)} values, the images have {channels} channels; give one for each"
            )
    images = count_split_images(recipe, summary)
    if images["validation"] < len(summary.classes):
        yield CompressError(
            f"data.validation_fraction: {recipe.data.validation_fraction:g} of {summary.train_images} images leaves "
            f"{images['validation']} for {len(summary.classes)} classes; raise it"
        )
    left = summary.train_images - images["validation"]
    if recipe.data.train_images is not None and not len(summary.classes) <= recipe.data.train_images <= left:
        yield CompressError(
            f"data.train_images: {recipe.data.train_images} is not between the {len(summary.classes)} classes and the {left} "
            "images that remain for training"
        )
    yield from _find_label_count_problems(recipe, images["train"], len(summary.classes))
    if recipe.data.white_level is not None and recipe.data.black_level >= recipe.data.white_level:
        yield CompressError(
            f"data.black_level: {recipe.data.black_level} is not below data.white_level {recipe.data.white_level}; lower it"
        )
    if recipe.data.white_level is None and recipe.data.black_level:
        yield CompressError(
            "data.black_level: says which value is black, but data.white_level does not say which is white; add it"
        )
    if recipe.data.flip and not getattr(source, "mirrors", True):
        yield CompressError(
            f"data.flip: the mirror image of a digit is none, and {recipe.data.source} shows digits; remove it, or take "
            "crop_padding"
        )
    if recipe.data.skip_unreadable and not hasattr(source, "load_encoded"):
        yield CompressError("data.skip_unreadable: has no effect, as this source decodes its images by itself; remove it")
    yield from _find_dense_problems(recipe, source)
    try:
        choose_storage(recipe, source, summary)
    except CompressError as error:
        yield error


def _find_label_count_problems(recipe: Recipe, images: int, classes: int) -> Iterator[CompressError]:
    """Yield that labels for students are too few or too many to be drawn by class."""
    labels = recipe.data.student_labels
    if labels is not None and not classes <= labels <= images - classes:
        yield CompressError(
            f"data.student_labels: {labels} of {images} training images; at least one of each of the {classes} classes must "
            "have a label, and as many none; change or remove it"
        )


def _find_dense_problems(recipe: Recipe, source: Source) -> Iterator[CompressError]:
    """Yield what is for one class for each image, where the data has something else."""
    if name_task(source) == "classification":
        return
    for field in _list_unlabelled_fields(recipe):
        yield CompressError(f"{field}: is for images with one class each, and this data has other labels; remove it")
    trains = [("train", recipe.train), *((f"teacher.{i}.train", t.train) for i, t in enumerate(recipe.teacher) if t.train)]
    if recipe.data.augment.is_on:
        yield CompressError("data.augment: is for images with one class each, and this data has other labels; remove it")
    for where, train in trains:
        if train.label_smoothing or train.class_weights != "none" or train.sampling != "shuffled":
            yield CompressError(
                f"{where}: label_smoothing, class_weights and sampling are for images with one class each; remove them"
            )


def _find_teacher_problems(recipe: Recipe, source: Source, summary: Summary, base: Path) -> Iterator[CompressError]:
    """Yield where what a teacher declares of its input and its classes does not fit itself or the data."""
    for index, teacher in enumerate(recipe.teacher):
        where = name_teacher(index, len(recipe.teacher), separator=".")
        depth = 3 if teacher.channels == "bgr" else DEPTHS[teacher.channels or source.channels]
        for name, values in (("mean", teacher.mean), ("std", teacher.std)):
            if values is not None and len(values) not in (1, depth):
                yield CompressError(
                    f"{where}.{name}: has {len(values)} values, and the teacher takes {depth} channels; give one for each, or "
                    "one for all"
                )
        if teacher.classes is not None and teacher.knows_classes:
            try:
                resolve_class_order(teacher.classes, summary.classes, base, where=f"{where}.classes")
            except CompressError as error:
                yield error


def choose_storage(recipe: Recipe, source: Source, summary: Summary) -> Storage:
    """Return where the decoded images will be held.

    Raises:
        CompressError: They do not fit where the recipe wants them.
    """
    return choose_place(
        recipe.data.storage, images=summary.train_images + summary.test_images, height=recipe.data.sides[0],
        width=recipe.data.sides[1], depth=DEPTHS[source.channels], can_stream=hasattr(source, "load_encoded"),
    )  # fmt: skip
