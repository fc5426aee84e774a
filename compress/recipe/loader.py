"""Read, describe and write recipes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError, create_model

from compress import plugins
from compress.errors import CompressError, RecipeError, Unreachable
from compress.recipe.class_order import WORDS
from compress.recipe.problems import explain
from compress.recipe.sections import (
    DataSection,
    DeviceSection,
    ExportSection,
    MeasureSection,
    MethodSection,
    Recipe,
    StudentSection,
    TeacherSection,
    TrackSection,
)
from compress.recipe.types import Listing, Section, Several, build_section_union
from compress.recipe.yaml import MAX_BYTES, read, write
from compress.system.files import read_bounded, resolve_path

S = TypeVar("S", bound=Section)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: A YAML file.
        overrides: Replaced fields, each `field.path=value` with the value in YAML.

    Raises:
        RecipeError: Every problem that was found, with file and line.
        Unreachable: The file cannot be read.
        CompressError: It is no file, or too large for a recipe.
    """
    path = Path(path)
    try:
        text = read_bounded(path, limit_bytes=MAX_BYTES, what="a recipe")
    except Unreachable as error:
        raise Unreachable(f"{error}; give the path of a recipe") from error
    return parse(text, str(path), overrides)


def parse(text: bytes, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from the bytes of a YAML file that is called `where` in messages.

    Raises:
        RecipeError: Every problem that was found, with file and line.
    """
    document = read(text, lambda line: f"{where}:{line}")
    if not isinstance(document.value, dict):
        raise RecipeError([f"{where}:1: a recipe is a mapping of fields; start from `compress init`"])
    for override in overrides:
        document.replace(override)
    known = schema(_find_references(document.value))
    try:
        recipe: Recipe = known.model_validate(document.value)
    except ValidationError as error:
        raise RecipeError(explain(document, known, error.errors())) from None
    if document.problems:
        raise RecipeError(explain(document, known, []))
    return recipe


def _find_references(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the networks that a recipe names by `module:function` and that can be read; nothing is imported."""
    teachers = document.get("teacher")
    sections = [*(teachers if isinstance(teachers, list) else [teachers]), document.get("student")]
    named = [section.get("model") if isinstance(section, dict) else section for section in sections]
    found: dict[str, None] = {}
    for name in named:
        if isinstance(name, str) and ":" in name and name not in plugins.list_names("models"):
            try:
                plugins.describe("models", name)
            except CompressError:
                continue  # said with its place in the recipe
            found[name] = None
    return tuple(found)


@cache
def schema(references: tuple[str, ...] = ()) -> type[Recipe]:
    """Return the type of recipes with the options of all plug-ins that are installed.

    Args:
        references: Networks that a recipe names by `module:function`.
    """
    listing, several = cast("Any", Listing), cast("Any", Several)  # types made at run time are beyond a type checker
    method = build_section_union(MethodSection, "methods", "name")
    devices = listing[build_section_union(DeviceSection, "devices", "device")]
    return _retype(
        Recipe,
        data=build_section_union(DataSection, "data", "source"),
        teacher=several[build_section_union(TeacherSection, "models", "model", references)],
        student=build_section_union(StudentSection, "models", "model", references),
        method=several[method],
        baselines=listing[several[method]],
        exports=listing[build_section_union(ExportSection, "exporters", "format")],
        measure=_retype(MeasureSection, devices=devices),
        track=listing[build_section_union(TrackSection, "trackers", "tracker")],
    )


def _retype(base: type[S], **annotations: Any) -> type[S]:
    """Return a section whose fields have other types, but the defaults and descriptions that they had."""
    fields: dict[str, Any] = {}
    for name, annotation in annotations.items():
        field = base.model_fields[name]
        fields[name] = annotation, Field(field.default, description=field.description)
    return create_model(base.__name__, __base__=base, **fields)


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    document = schema().model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def canonical(section: BaseModel) -> str:
    """Return a section as JSON with sorted keys: equal sections give equal text."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def dump(recipe: Recipe, base: Path) -> str:
    """Return a recipe as YAML with every default spelled out and every path made absolute.

    Args:
        recipe: The recipe.
        base: Folder at which its relative paths start.
    """
    document = recipe.model_dump(mode="json")
    document["data"].update(recipe.data.options(base))
    for section in (*document["teacher"], document["student"]):
        if section["weights"] is not None:
            section["weights"] = str(resolve_path(base, section["weights"]).resolve())
        if isinstance(section.get("classes"), str) and section["classes"] not in WORDS:
            section["classes"] = str(resolve_path(base, section["classes"]).resolve())
    return write(document)
