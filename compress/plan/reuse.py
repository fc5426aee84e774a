"""Find what an earlier run under the same name left that a run of this recipe finds again. Imports no torch.

A stage is found again where every section of the recipe that decides it is as in the recipe that the run's folder keeps.
Whether data and packages are the same is seen only by the run itself; where they are not, the stage is made anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.errors import CompressError
from compress.plan.names import name_baselines
from compress.recipe import Recipe, dump, load
from compress.recipe import yaml as strict_yaml
from compress.text import name_teacher

KEPT_RECIPE = "recipe.yaml"
WITHOUT_EFFECT = {"train": ("device", "state_seconds"), "data": ("storage",)}
"""Fields that decide no result, by their section."""
SHARED = ("data", "seed")
DELIVERED = ("exports", "int8", "gate")

Sections = Mapping[str, Any]


def read_last_recipe(folder: Path) -> Recipe | None:
    """Return the recipe of the last run in a folder; nothing where there is none, or another version wrote it."""
    kept = folder / KEPT_RECIPE
    if not kept.is_file():
        return None
    try:
        return load(kept)
    except CompressError:  # nothing of it would be found again
        return None


def find_changed_sections(stage: str, recipe: Recipe, last: Recipe, *, base: Path, folder: Path) -> tuple[str, ...]:
    """Return the sections that decide a stage and differ between two recipes.

    Args:
        stage: Name of the stage, as in the plan.
        recipe: What shall be run.
        last: What was run.
        base: Folder at which the recipe's relative paths start.
        folder: The same of what was run: the run's folder.
    """
    new, old = _select_sections(stage, recipe, base), _select_sections(stage, last, folder)
    return tuple(name for name in {**new, **old} if new.get(name) != old.get(name))


def _select_sections(stage: str, recipe: Recipe, base: Path) -> Sections:
    """Return the sections that decide a stage, as plain data with absolute paths."""
    whole = _describe(recipe, base)
    teachers = [name_teacher(index, len(recipe.teacher)) for index in range(len(recipe.teacher))]
    if stage in teachers:
        return _select_teacher(whole, teachers.index(stage))
    if stage in ("measure", "report"):
        return whole
    chosen = {**{name: whole[name] for name in (*SHARED, "student", "train")}, "method": _find_methods(stage, recipe, whole)}
    if any(each["name"] != "supervised" for each in chosen["method"] or ()):
        chosen |= {name: whole[name] for name in ("teacher", "teacher_outputs")}
    return chosen | ({name: whole[name] for name in DELIVERED} if stage in ("export", "int8", "gate") else {})


def _describe(recipe: Recipe, base: Path) -> dict[str, Any]:
    whole: dict[str, Any] = strict_yaml.read(dump(recipe, base).encode(), str).value
    for section, fields in WITHOUT_EFFECT.items():
        whole[section] = {name: value for name, value in whole[section].items() if name not in fields}
    return {name: value for name, value in whole.items() if name != "name"}


def _select_teacher(whole: Sections, index: int) -> Sections:
    teacher = whole["teacher"][index]
    own = teacher["train"] is not None or teacher["weights"] is not None
    return {**{name: whole[name] for name in SHARED}, "teacher": teacher, **({} if own else {"train": whole["train"]})}


def _find_methods(stage: str, recipe: Recipe, whole: Sections) -> Any:
    """Return the methods of the student, or of the baseline to which a stage belongs."""
    for place, name in enumerate(name_baselines(recipe.baselines)):
        if stage == name or stage.startswith(f"{name}-"):
            return whole["baselines"][place]
    return whole["method"]
