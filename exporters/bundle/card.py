"""Render the model card of a bundle: origin of the network, accuracy on each class, limits of its use.

It holds facts of the run alone. Nothing is filled in that nobody measured or stated; where a licence or a purpose is not known,
the card says whom to ask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from compress.recipe import Recipe, Section, canonical
from compress.records import Accuracy, Environment, Headline, Manifest, Variant
from compress.tasks import load_task
from exporters.bundle.readme import (
    describe_geometry,
    escape_markdown,
    format_accuracy,
    name_kind,
    name_metric,
    render_measurements,
    render_table,
)

UNKNOWN = "unknown: ask"
CONFUSIONS = 8
"""Number of pairs of classes that are listed."""


class Background(NamedTuple):
    """Facts about a network beside its files."""

    recipe: Recipe
    method: str
    """How it was trained, in short."""
    teachers: tuple[Variant, ...]
    images: Mapping[str, int]
    """Images in each split."""
    labels: NDArray[np.int64]
    """Of the test split, [N]."""
    predicted: NDArray[np.int64]
    """The torch network's top-1 class for each test image, [N]."""
    data_licence: str
    """As the data source states it; empty where it does not."""
    seconds: float
    """Spent training the student."""
    environment: Environment
    """Where it was made."""
    headline: Headline | None = None
    """The answers with which all accounts of the run begin."""


def render_card(manifest: Manifest, background: Background | None) -> str:
    """Render the model card as Markdown.

    Args:
        manifest: Of the bundle.
        background: Facts of the run; without it the card says that they are not known.
    """
    history = "\n\n".join(_render_history(manifest, background)) if background else UNKNOWN_HISTORY
    return f"""# Model card: {escape_markdown(manifest.name)}

{_render_headline(background.headline if background else None)}\
{name_kind(manifest)}: {_describe_classes(manifest)}. {_describe_answers(manifest)}

{history}

## Files

{render_measurements(manifest)}

## Intended use and limits

- It is made to {_describe_purpose(manifest)}. For what purpose
  that is good enough is for whoever ships it to say; this card was written by a program.
- {_describe_unknown(manifest)}
- {_describe_scores(manifest)}
- {describe_geometry(manifest.preprocess)}, as in training.
- Not measured: other cameras, light, weather or places than those of the test images, pictures that are made to deceive it,
  and differences between groups of people.
- Accuracies hold for images drawn like the test images, within their intervals. Latencies hold for the machine named above.
- int8 and fp16 files answer some images otherwise than the network that they come from: see agreement.
"""


def _describe_answers(manifest: Manifest) -> str:
    if load_task(manifest.task).boxes:
        return "Every object that it finds gets one of these, and a box."
    return "Every answer is one of these."


def _describe_purpose(manifest: Manifest) -> str:
    if load_task(manifest.task).boxes:
        return "find objects of the classes above in images like those of its training data"
    return "sort images like those of its training data into the classes above"


def _describe_unknown(manifest: Manifest) -> str:
    """Return what becomes of what the network was not taught."""
    if load_task(manifest.task).boxes:
        return (
            "What it was not taught is background, or is taken for one of the classes; what it does not find leaves no trace."
        )
    return 'It knows no "none of these": a picture of anything else gets one of the classes, often with a high score.'


def _describe_scores(manifest: Manifest) -> str:
    """Return how far scores can be read as probabilities, as it was measured."""
    if load_task(manifest.task).boxes:
        return (
            "Scores are the sigmoid of the logits, of each class by itself; they are no probabilities, and were not calibrated."
        )
    measured = [file.measured.calibration for file in manifest.files if file.measured and file.measured.calibration]
    if not measured:
        return "Scores are the softmax of the logits; whether they can be read as probabilities was not measured."
    worst = max(measured, key=lambda each: each.scaled_ece_percent)
    before = max(each.ece_percent for each in measured)
    return (
        f"Scores of `predict.py` are the softmax of the logits divided by a temperature, which was fitted for each file on "
        f"validation images. On {worst.samples} test images they then differ from how often the answers are right by at most "
        f"{worst.scaled_ece_percent:.1f} points on average (expected calibration error in {worst.bins} bins of equal width; "
        f"without the division {before:.1f}). On images of another kind they may be far off."
    )


def _render_headline(headline: Headline | None) -> str:
    """Render the answers of the run, with a blank line behind; nothing where they are not known."""
    if headline is None:
        return ""
    answers = {"Speed": headline.speed, "Accuracy against the teacher": headline.loss, "Against plain training": headline.plain}
    lines = [f"- {title}: {'; '.join(filter(None, [answer.text, answer.detail]))}" for title, answer in answers.items()]
    instead = f" To ship the better one: `{headline.instead}`." if headline.instead else ""
    body = "\n".join(map(escape_markdown, lines))
    return f"**{escape_markdown(headline.line)}**\n\n{escape_markdown(headline.why)}.{instead}\n\n{body}\n\n"


UNKNOWN_HISTORY = """## How it came about

Not known: this bundle was written from files alone, without the run that trained the network."""


def _describe_classes(manifest: Manifest) -> str:
    names = [escape_markdown(name) for name in manifest.classes]
    shown = ", ".join(names[:30])
    return f"{len(names)} classes ({shown}{', …' if len(names) > 30 else ''})"


def _render_history(manifest: Manifest, background: Background) -> Iterator[str]:
    recipe = background.recipe
    counts = ", ".join(f"{count} {name}" for name, count in background.images.items())
    yield "## Data"
    yield (
        f"Source `{recipe.data.source}`: {counts} images. Every choice was made on the validation images, which are taken from "
        "the training split; test images were for the report alone. "
        f"Licence of the data: {escape_markdown(background.data_licence) or UNKNOWN}."
    )
    yield _render_settings(recipe.data)
    yield "## Network and method"
    yield f"The network is `{recipe.student.model}`, trained by {escape_markdown(background.method)}. {_describe_start(recipe)}"
    yield "\n".join(f"- `{section.name}`: `{_format_section(section)}`" for section in recipe.method)
    yield "### Teachers"
    yield render_table(
        ("name", "network", "weights", "parameters", f"{name_metric(manifest)} %, test"), _list_teachers(background)
    )
    yield "## Training settings"
    yield f"Seed {manifest.provenance.get('seed', recipe.seed)}; the student was trained for {background.seconds:.0f} s."
    yield _render_settings(recipe.train)
    if len(manifest.shape) > 1:
        yield f"## {'AP' if load_task(manifest.task).boxes else 'IoU'} of each class"
        yield "Of the files, on the test split; a class that is in no label and no answer has none."
        yield render_table(("class", *(file.path for file in manifest.files)), _list_iou(manifest))
        yield "## Environment"
        yield "\n".join(_list_environment(background.environment))
        return
    yield "## Accuracy on each class"
    yield "Of the torch network in float32, on the test split; the files differ from it as their agreement says."
    yield render_table(("class", "right", "images", "top-1 %, 95 % interval"), _list_classes(manifest, background))
    yield "### Confusions"
    yield "\n".join(_list_confusions(manifest, background))
    yield "## Environment"
    yield "\n".join(_list_environment(background.environment))


def _format_section(section: Section) -> str:
    return canonical(section).replace("`", "'")


def _render_settings(section: Section) -> str:
    values = section.model_dump(mode="json")
    return render_table(("setting", "value"), ((f"`{name}`", escape_markdown(str(value))) for name, value in values.items()))


def _describe_start(recipe: Recipe) -> str:
    if not recipe.student.has_weights:
        return "It started from random weights."
    return f"It started from these weights: {escape_markdown(recipe.student.describe_origin())}."


def _list_teachers(background: Background) -> Iterator[tuple[str, ...]]:
    for index, section in enumerate(background.recipe.teacher):
        found = background.teachers[index] if index < len(background.teachers) else None
        origin = "trained in this run"
        if section.has_weights:
            given = escape_markdown(section.describe_origin())
            origin = given if section.is_given else f"trained in this run from {given}"
        parameters = str(found.parameters) if found else "not measured"
        name = escape_markdown(found.network) if found else "teacher"
        yield name, f"`{section.model}`", origin, parameters, format_accuracy(found.accuracy if found else None)


def _list_classes(manifest: Manifest, background: Background) -> Iterator[tuple[str, ...]]:
    for label, name in enumerate(manifest.classes):
        of_class = background.labels == label
        images, right = int(of_class.sum()), int((background.predicted[of_class] == label).sum())
        shown = format_accuracy(Accuracy.from_hits(right, images)) if images else "no test images"
        yield escape_markdown(name), str(right), str(images), shown


def _list_iou(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    measured = [
        file.measured.accuracy.class_percent if file.measured and file.measured.accuracy else () for file in manifest.files
    ]
    for label, name in enumerate(manifest.classes):
        each = [found[label] if label < len(found) else None for found in measured]
        yield escape_markdown(name), *("–" if value is None else f"{value:.1f}" for value in each)


def _list_confusions(manifest: Manifest, background: Background) -> Iterator[str]:
    wrong = background.labels != background.predicted
    pairs, counts = np.unique(
        np.stack([background.labels[wrong], background.predicted[wrong]], axis=1), axis=0, return_counts=True
    )
    repeated = [(int(counts[row]), *map(int, pairs[row])) for row in np.argsort(-counts, kind="stable") if counts[row] > 1]
    for count, label, answer in repeated[:CONFUSIONS]:
        images = int((background.labels == label).sum())
        these, others = escape_markdown(manifest.classes[label]), escape_markdown(manifest.classes[answer])
        yield f"- {count} of {images} images of {these} are taken for {others}"
    if not repeated:
        yield f"No pair of classes was confused more than once among {len(background.labels)} test images."


def _list_environment(environment: Environment) -> Iterator[str]:
    yield f"- Python {environment.python}, {escape_markdown(environment.platform)}"
    yield f"- {escape_markdown(environment.cpu)}, {environment.cores_logical} logical cores"
    yield from (f"- {name} {version}" for name, version in environment.packages.items())
