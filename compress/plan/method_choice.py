"""Which method for how much training: what our own committed results say, and how far they go.

All of it is in `docs/concepts/which_method.md`, whose table is made of `benchmarks/results`. The steps named here are those
of the runs there; nothing is known of what lies between and beyond them.
"""

from __future__ import annotations

from collections.abc import Iterator

from compress.recipe import MethodSection, Recipe
from compress.text import quantify

GUIDE = "docs/concepts/which_method.md"
FEWEST_STEPS = 204
"""Of all runs in which a distilled student was compared with a plain one: `benchmarks/results/digits_three_seeds`."""
DIVERGENCES_BELOW, DIVERGENCES_LEVEL = 372, "255 and 2,808"
"""Steps at which divergences from the teacher (kd, dih with kd) lay below plain training, and at which they could not be told
from it: `cifar10_resnet8`, and `digits_all_labels` and `cifar10_resnet8_longer`. All pictures had labels there; where few
have, they are above (`recipes/digits_screening.yaml`)."""
FEW_STEPS = 3000
"""Steps below which `check` warns of methods that are divergences alone."""


def find_steps_notes(recipe: Recipe, images: int) -> Iterator[str]:
    """Yield why the student may end no better than one that is trained plainly, for want of steps.

    Args:
        recipe: The recipe.
        images: Training images.
    """
    steps = recipe.train.epochs * (images // recipe.train.batch_size)
    if all(method.name == "supervised" for method in recipe.method):
        return
    compared = any(method.name == "supervised" for methods in recipe.baselines for method in methods)
    remedy = "the baseline 'supervised' will tell" if compared else "`baselines: [supervised]` will tell"
    has_unlabelled = recipe.data.student_labels is not None or recipe.data.unlabelled is not None
    if all(map(is_divergence, recipe.method)) and steps < FEW_STEPS and not has_unlabelled:
        yield (
            f"method: {', '.join(dict.fromkeys(method.name for method in recipe.method))} asks for the size of the teacher's "
            f"logits, and the student has {quantify(steps, 'step')}: in our runs such a student was never above plain "
            f"training, and below it after {DIVERGENCES_BELOW} steps (level after {DIVERGENCES_LEVEL}), "
            f"where dih and dist were above; {remedy} ({GUIDE})"
        )
    else:
        yield from find_untried_notes(steps, remedy)


def find_untried_notes(steps: int, remedy: str) -> Iterator[str]:
    """Yield that nothing is known of so few steps.

    Args:
        steps: Of the student.
        remedy: What will tell.
    """
    if steps < FEWEST_STEPS:
        yield (
            f"train.epochs: {quantify(steps, 'step')} are fewer than in any run in which we compared a distilled student with "
            f"a plain one ({FEWEST_STEPS}); {remedy} ({GUIDE})"
        )


def is_divergence(method: MethodSection) -> bool:
    """Return whether all that a method takes from the teacher is a divergence of logits that are not standardised."""
    options = method.options()
    if method.name in ("kd", "dkd"):
        return not (options.get("standardise") or options.get("preset") == "standardised")
    loss = options.get("logit_loss") or ("kd" if options.get("preset") == "paper" else "dist")
    return method.name == "dih" and loss == "kd"
