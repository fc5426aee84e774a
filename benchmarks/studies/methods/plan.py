"""Plan of the study of methods, fixed before it was run: parts, sizes, the rule of tuning, hypotheses.

`docs/study.md` says the same in prose. A part is one recipe; its methods are trained at the recipe's learning rate (`default`)
and at their own (`tuned`).
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from benchmarks.studies.methods.records import Piece
from compress import recipe as recipes
from compress.errors import CompressError
from compress.plan.names import name_baselines
from compress.recipe import MethodSection, Recipe
from compress.text import quantify

RATES = {"sgd": (0.02, 0.05, 0.1), "adamw": (0.002, 0.005, 0.01)}
"""Learning rates among which every method chooses, the same for all, each optimizer apart."""
TUNING_IMAGES, TUNING_EPOCHS, TUNING_SEEDS = 10_000, 8, 1
"""Size of the trainings by which it chooses: the highest mean validation accuracy, and nothing else."""


class Part(NamedTuple):
    """One recipe of the study."""

    recipe: str
    """Name of its file in `recipes`."""
    seeds: int
    optimizer: str
    lr: float
    """The recipe's."""
    changes: tuple[str, ...] = ()
    """Fields of the recipe that this part has otherwise."""
    is_tuned: bool = True
    """Whether methods choose a learning rate of their own; else all have the recipe's."""


ADAMW = ("train.optimizer=adamw", "train.lr=0.005", "train.weight_decay=0.05")

PARTS = {
    "a": Part("study_cifar10", 5, "sgd", 0.05),
    "a-maps": Part("study_cifar10_maps", 3, "sgd", 0.05),
    "b": Part("study_shapes", 3, "sgd", 0.05),
    "c": Part("study_cifar100", 3, "sgd", 0.05),
    "d-sgd": Part("study_defaults", 3, "sgd", 0.05, is_tuned=False),
    "d-adamw": Part("study_defaults", 3, "adamw", 0.005, changes=ADAMW, is_tuned=False),
}


class Hypothesis(NamedTuple):
    """What was expected before."""

    name: str
    claim: str
    part: str
    this: str
    other: str
    expected: Literal["better", "not worse", "smaller lead than in a-maps"]


HYPOTHESES = (
    Hypothesis("H1", "standardised logits make plain distillation better than plain training", "a", "kd-standardised",
               "supervised", "better"),
    Hypothesis("H2", "correlations are better than divergences", "a", "dist", "kd", "better"),
    Hypothesis("H3", "a cohort that teaches by divergences is better than the teacher alone", "a", "dih-kd", "kd", "better"),
    Hypothesis("H4", "DIH × DIST is no worse than DIST alone", "a", "dih-dist", "dist", "not worse"),
    Hypothesis("H5", "DIH × DIST is better than DIH alone", "a", "dih-dist", "dih-kd", "better"),
    Hypothesis("H6", "DIH × DIST is better than plain training", "a", "dih-dist", "supervised", "better"),
    Hypothesis("H7", "so it is with a hundred classes and a teacher that errs", "c", "dih-dist", "supervised", "better"),
    Hypothesis("H8", "the lead of FitNets over DIST is smaller where maps have other shapes", "b", "fitnet", "dist",
               "smaller lead than in a-maps"),
    Hypothesis("H9", "with SGD the default of DIST is no worse than plain training", "d-sgd", "dist", "supervised",
               "not worse"),
    Hypothesis("H10", "so it is with AdamW", "d-adamw", "dist", "supervised", "not worse"),
    Hypothesis("H11", "with SGD the default of DIH is better than plain training", "d-sgd", "dih-dist", "supervised",
               "better"),
    Hypothesis("H12", "so it is with AdamW", "d-adamw", "dih-dist", "supervised", "better"),
)  # fmt: skip
MARGIN_POINTS = 1.0
"""*Not worse* means: the whole interval lies above minus this."""


class Task(NamedTuple):
    """One run that is to be done."""

    name: str
    part: str
    kind: Literal["tuning", "default", "tuned"]
    recipe: Recipe
    labels: tuple[str, ...]
    """Of its methods, in the order of the recipe: the student, then every baseline."""
    seeds: tuple[int, ...]


def list_methods(recipe: Recipe) -> dict[str, tuple[MethodSection, ...]]:
    """Return the methods of a recipe by label: the student's, then every baseline's."""
    groups = [tuple(recipe.method), *(tuple(group) for group in recipe.baselines)]
    return dict(zip(name_baselines(groups), groups, strict=True))


def select(recipe: Recipe, labels: Sequence[str]) -> Recipe:
    """Return the recipe with some of its methods, the first of which trains the student.

    Raises:
        CompressError: There is no such method, or none is wanted.
    """
    known = list_methods(recipe)
    unknown = [label for label in labels if label not in known]
    if unknown or not labels:
        what = f"has no method {unknown[0]!r}" if unknown else "has none of the methods that are wanted"
        raise CompressError(f"recipe {recipe.name}: {what}; there are: {', '.join(known)}")
    first, *others = labels
    return recipe.model_copy(update={"method": known[first], "baselines": tuple(known[label] for label in others)})


def list_tuning(part: str, recipe: Recipe, labels: Sequence[str], *, seeds: int) -> Iterator[Task]:
    """Yield a small training of all methods with each learning rate, where a part is tuned."""
    where = PARTS[part]
    if not where.is_tuned:
        return
    data = recipe.data.model_copy(update={"train_images": min(TUNING_IMAGES, recipe.data.train_images or TUNING_IMAGES)})
    for lr in RATES[where.optimizer]:
        train = recipe.train.model_copy(update={"lr": lr, "epochs": min(TUNING_EPOCHS, recipe.train.epochs)})
        name = f"{part}-tuning-lr{lr:g}"
        chosen = select(recipe, labels).model_copy(update={"name": name, "train": train, "data": data})
        yield Task(name, part, "tuning", chosen, tuple(labels), tuple(range(min(TUNING_SEEDS, seeds))))


def choose_rates(pieces: Sequence[Piece], part: str) -> Mapping[str, float]:
    """Return the learning rate of each method: that of the highest mean validation accuracy, of equal ones the smaller.

    Raises:
        CompressError: Not all rates were tried.
    """
    tried = sorted((piece for piece in pieces if piece.part == part and piece.kind == "tuning"), key=lambda piece: piece.lr)
    wanted = RATES[PARTS[part].optimizer]
    if [piece.lr for piece in tried] != list(wanted):
        raise CompressError(f"part {part}: {quantify(len(tried), 'learning rate')} of {len(wanted)} were tried; tune it first")
    best: dict[str, tuple[float, float]] = {}
    for piece in tried:
        for student in piece.students:
            score = statistics.mean(seed.validation.top1_percent for seed in student.scores.seeds)
            if score > best.get(student.label, (-1.0, 0.0))[0]:
                best[student.label] = score, piece.lr
    return {label: lr for label, (_, lr) in best.items()}


def list_trainings(
    part: str, recipe: Recipe, labels: Sequence[str], rates: Mapping[str, float], *, seeds: int
) -> Iterator[Task]:
    """Yield the training of all methods at the recipe's learning rate, then of those with another one at their own.

    Args:
        part: Its name.
        recipe: Of the part.
        labels: Of the methods.
        rates: Chosen for each; what is not in it keeps the recipe's.
        seeds: Students of each method.
    """
    where, numbers = PARTS[part], tuple(range(seeds))
    default = select(recipe, labels).model_copy(update={"name": f"{part}-default"})
    yield Task(default.name, part, "default", default, tuple(labels), numbers)
    for lr in RATES[where.optimizer]:
        own = tuple(label for label in labels if rates.get(label, where.lr) == lr)
        if own and lr != where.lr:
            name = f"{part}-tuned-lr{lr:g}"
            train = recipe.train.model_copy(update={"lr": lr})
            yield Task(name, part, "tuned", select(recipe, own).model_copy(update={"name": name, "train": train}), own, numbers)


def load_recipe(part: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a part, with what the part and then the caller have otherwise."""
    return recipes.load(find_recipe(part), [*PARTS[part].changes, *overrides])


def find_recipe(part: str) -> Path:
    """Return the file of a part's recipe."""
    return Path(__file__).parents[3] / "recipes" / f"{PARTS[part].recipe}.yaml"
