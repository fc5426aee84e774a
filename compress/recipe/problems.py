"""Say what is wrong with a recipe in its own words: place in the file, field, value, what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from compress import plugins
from compress.errors import CompressError
from compress.recipe.types import find_plugin_name
from compress.recipe.yaml import Place, YamlDocument

_MUST_BE: Mapping[str, str] = {
    "bool_type": "true or false",
    "finite_number": "finite",
    "float_type": "a number",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "model_attributes_type": "a section with fields",
    "model_type": "a section with fields",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
    "string_type": "text",
    "too_short": "a list of at least {min_length}",
    "tuple_type": "a list",
    "value_error": "{error}",
}
"""By pydantic's type of error: those that the types of `compress.recipe.types` can give."""


RENAMED: Mapping[tuple[str, str], str] = {("Recipe", "targets"): "teacher_outputs"}
"""By section and former name of a field: its name."""


class _Spot(NamedTuple):
    place: Place
    section: type[BaseModel]
    """The innermost section around the place."""
    choices: Sequence[type[BaseModel]]
    """The sections that may stand at the place."""


def explain(document: YamlDocument, root: type[BaseModel], errors: Sequence[ErrorDetails]) -> list[str]:
    """Return one line for each problem, in the order of the file, those of `--set` last."""
    found = list(document.problems)
    for error in errors:
        if error["type"] == "too_short" and error["input"]:
            continue  # pydantic counts the items that are left when those with problems are not counted
        spot = _find_spot(root, error["loc"])
        if error["type"].startswith("union_tag"):
            spot = spot._replace(place=(*spot.place, error["ctx"]["discriminator"].strip("'")))
        written, shown = document.find(spot.place)
        found.append((document.mark(written), f"{shown}: {_make_sentence(error, spot)}"))
    return [f"{mark.text}: {text}" for mark, text in sorted(found, key=lambda item: item[0].order)]


def _find_spot(root: type[BaseModel], location: Sequence[str | int]) -> _Spot:
    """Return what pydantic's location means: it names union members between the fields."""
    place: Place = ()
    section, choices = root, [root]
    for part in location:
        if isinstance(part, int):
            place = (*place, part)
        elif len(choices) > 1:
            choices = [choice for choice in choices if find_plugin_name(choice) == part]
        elif choices:
            section, place = choices[0], (*place, part)
            field = section.model_fields.get(part)
            choices = list(_list_sections(field.annotation)) if field else []
    return _Spot(place, section, choices)


def _list_sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _list_sections(argument)


def _make_sentence(error: ErrorDetails, spot: _Spot) -> str:
    value, context = error["input"], error.get("ctx", {})
    names = [find_plugin_name(choice) for choice in spot.choices]
    match error["type"]:
        case "missing":
            sentence = "is missing"
        case "extra_forbidden":
            sentence = _say_unknown(str(spot.place[-1]), spot.section)
        case "union_tag_not_found":
            sentence = f"is missing; there are: {', '.join(names)}"
        case "union_tag_invalid":
            sentence = _explain_reference(context["tag"], names) or _explain_unknown(context["tag"], names)
        case "literal_error":
            known = re.findall(r"'([^']*)'|(\d+)", context["expected"])  # words stand in quotes, numbers do not
            sentence = _explain_unknown(value, [word or number for word, number in known])
        case kind:
            wanted = _MUST_BE[kind].format_map(context) if kind in _MUST_BE else error["msg"]
            sentence = f"must be {wanted}, not {_show(value)}"
    return sentence


def _say_unknown(field: str, section: type[BaseModel]) -> str:
    """Return what is wrong with a field that a section does not have."""
    if (section.__name__, field) in RENAMED:
        return f"is now called {RENAMED[section.__name__, field]!r}; rename it"
    return f"unknown field; {plugins.suggest_name(field, list(section.model_fields))}"


def _explain_reference(tag: str, names: list[str]) -> str:
    """Return why there is no network `module:function`; nothing for other names, and where no network is named."""
    is_mapping = tag.startswith(("{", "["))  # pydantic gives it as text
    if ":" not in tag or is_mapping or set(names).isdisjoint(plugins.list_names("models")):
        return ""
    try:
        plugins.describe("models", tag)
    except CompressError as error:
        return str(error).removeprefix("models: ")
    return ""


def _explain_unknown(value: object, known: list[str]) -> str:
    return f"there is no {_show(value)}; {plugins.suggest_name(str(value), known)}"


def _show(value: object) -> str:
    """Return a value as YAML has it, shortened."""
    words = {None: "nothing", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, (dict, list, tuple)):
        kind = "section" if isinstance(value, dict) else "list"
        return f"a {kind}" if value else f"an empty {kind}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
