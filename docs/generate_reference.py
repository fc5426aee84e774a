"""Write the pages of the reference that the code already states: the recipe's fields, and every plug-in with its options.

They are written when the site is built and are not committed, so they cannot be out of date.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compress import plugins
from compress.cli.catalogue import describe_type
from compress.recipe import json_schema

INTRODUCTIONS: Mapping[plugins.Kind, str] = {
    "methods": "What the student is trained with: `method:` and `baselines:` of the recipe, `method=` of `compress.distill`.",
    "models": "Networks by name: `student: {model: NAME}`, `teacher: {model: NAME}`. Your own: `module:function`.",
    "data": "Where the images come from: `data: {source: NAME}`.",
    "exporters": "File formats: `exports: [{format: NAME}]`, `compress export RUN --to NAME`.",
    "runtimes": "What runs a file when it is proved and timed; each format names its own.",
    "devices": "Where files run when they are proved and timed: `measure: {devices: [NAME]}`, `compress bench --device NAME`.",
    "tasks": "What labels are, what training minimises and how answers are judged; the data source decides which one it is.",
    "trackers": "What draws the progress of a run beside its own files: `track: NAME`. Nothing is sent anywhere by default.",
}


WHOLE_SECTIONS: Mapping[str, str] = {
    "data": "section, or the name of a source", "teacher": "section, name of a network, or a list of these",
    "student": "section, or name of a network", "method": "section, name of a method, or a list of these",
    "baselines": "list of what `method` may be", "exports": "list of sections or names of formats",
    "track": "list of sections or names of trackers",
}  # fmt: skip
"""Fields of the top level that name plug-ins."""


def write_pages(folder: Path) -> None:
    """Write `recipe.md` and a page for each kind of plug-in into the folder; those that are right stay untouched."""
    pages = {"recipe": "\n".join(make_recipe_page(json_schema())) + "\n"}
    for kind, introduction in INTRODUCTIONS.items():
        pages[kind] = "\n".join(make_plugins_page(kind, introduction)) + "\n"
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def make_recipe_page(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the page of the recipe: its top level, then every section that is no plug-in."""
    definitions = schema["$defs"]
    yield "# The recipe"
    yield ""
    yield "Every field, its type, its default and what it means. What is unknown, contradictory or out of range is refused at"
    yield "once, all mistakes together, with line and nearest right word. `compress schema` prints the same for editors."
    yield ""
    yield "## Top level"
    yield ""
    yield from make_table(schema["properties"], schema.get("required", ()), definitions)
    for section, name in (
        ("data", "DataSection"),
        ("teacher", "TeacherSection"),
        ("student", "StudentSection"),
        ("train", "TrainSection"),
        ("teacher_outputs", "TeacherOutputsSection"),
        ("exports", "ExportSection"),
        ("int8", "Int8Section"),
        ("gate", "GateSection"),
        ("measure", "MeasureSection"),
    ):
        found = find_section(name, definitions)
        yield ""
        yield f"## `{section}`"
        yield ""
        yield tidy(found.get("description", ""))
        yield ""
        yield from make_table(found["properties"], found.get("required", ()), definitions)


def find_section(name: str, definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the definition of a section; of one that plug-ins extend, the fields that all of them have."""
    if name in definitions:
        return definitions[name]
    from compress import recipe

    section: Mapping[str, Any] = getattr(recipe, name).model_json_schema()
    definitions.update(section.get("$defs", {}))  # type: ignore[attr-defined]
    return section


def make_table(fields: Mapping[str, Any], required: Iterable[str], definitions: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of fields in Markdown."""
    yield "| field | type | default | what it is |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        default = "required" if name in required else write_default(field.get("default"))
        kind = WHOLE_SECTIONS.get(name) or describe_field(field, definitions)
        yield f"| `{name}` | {escape(kind)} | {escape(default)} | {escape(tidy(field.get('description', '')))} |"


TYPES: Mapping[str, str] = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true | false",
    "null": "none",
    "string": "text",
    "object": "section",
}
"""What people call the types of JSON Schema."""


def describe_field(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the type of a field as people say it."""
    if "$ref" in field:
        known = definitions.get(field["$ref"].rpartition("/")[2], {})
        return describe_field(known, definitions) if "enum" in known else "section"
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        return " | ".join(f"`{value}`" for value in choices)
    if parts := field.get("anyOf", field.get("oneOf", ())):
        return " | ".join(dict.fromkeys(describe_field(part, definitions) for part in parts))
    if field.get("type") == "array":
        return "list of " + describe_field(field.get("items", {}), definitions)
    return TYPES.get(field.get("type", ""), "any value") + describe_bounds(field)


def describe_bounds(field: Mapping[str, Any]) -> str:
    """Return the bounds of a number, as ` ≥ 1`."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {field[key]}" for key, sign in signs.items() if key in field]
    return " " + ", ".join(found) if found else ""


def write_default(value: Any) -> str:
    """Return a default as YAML would write it; those of whole sections stand at their fields."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "see below"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def make_plugins_page(kind: plugins.Kind, introduction: str) -> Iterator[str]:
    """Yield the page of one kind of plug-in: each with its description and a table of its options."""
    yield f"# {kind.capitalize()}"
    yield ""
    yield introduction
    yield ""
    for name in plugins.list_names(kind):
        plugin = plugins.describe(kind, name)
        yield f"## `{name}`"
        yield ""
        about, _, _ = plugin.docstring.partition("\nArgs:")
        yield escape_markdown(about.strip())
        yield ""
        if plugin.options:
            yield "| option | type | default | what it is |"
            yield "|---|---|---|---|"
        for option, facts in plugin.options.items():
            default = "required" if facts.default is plugins.REQUIRED else write_default(facts.default)
            cells = (f"`{option}`", describe_type(facts.annotation), default, tidy(facts.description))
            yield "| " + " | ".join(escape(cell) for cell in cells) + " |"
        yield ""


def tidy(text: str) -> str:
    """Return a text in one line."""
    return re.sub(r"\s+", " ", text).strip()


def escape(text: str) -> str:
    r"""Return a text for a cell of a table: a bar would end it, and `*` or `<` would be markup."""
    return escape_markdown(text).replace("|", "\\|")


def escape_markdown(text: str) -> str:
    """Return a text whose `*`, `_` and `<` mean themselves, outside what stands between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\]])", r"\\\1", part) for part in parts)
