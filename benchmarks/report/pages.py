"""Render the templates: HTML with everything escaped, Markdown with everything escaped that Markdown would act on.

Names, reasons, classes and recipes are untrusted. Only `markupsafe.Markup` stays as it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from ruamel.yaml import YAML

from benchmarks.report import curves, wording
from compress.system.files import write_whole
from compress.text import (
    MISSING,
    escape_commands,
    format_bytes,
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percent,
    format_signed,
)

TEMPLATES = Path(__file__).with_name("templates")
SPECIAL = re.compile(r"[\\`*\[\]<>|~$&]|(?<!\w)_|_(?!\w)|^#|^[+-](?=\s)")

ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def render_html(template: str, *, folder: Path = TEMPLATES, **context: Any) -> str:
    """Return a filled HTML template."""
    environment = Environment(autoescape=True, finalize=_escape_commands, **_make_settings(folder))
    return _add_filters(environment).get_template(template).render(**context)


def render_markdown(template: str, *, folder: Path = TEMPLATES, **context: Any) -> str:
    """Return a filled Markdown template."""
    environment = Environment(autoescape=False, finalize=_escape, **_make_settings(folder))  # noqa: S701 (`finalize` escapes for Markdown)
    return _add_filters(environment).get_template(template).render(**context)


def save(path: Path, text: str) -> None:
    """Write a text, whole or not at all.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    with write_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _make_settings(folder: Path) -> dict[str, Any]:
    return {
        "loader": FileSystemLoader(folder),
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
        "keep_trailing_newline": True,
    }


def _add_filters(environment: Environment) -> Environment:
    environment.filters |= FILTERS
    environment.globals["dash"] = MISSING
    return environment


def _escape_commands(value: object) -> object:
    """Return a text without what would command the terminal of somebody who prints the page; what is HTML already stays."""
    return escape_commands(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _escape(value: object) -> object:
    """Return a value so that Markdown shows it as it is, on one line."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    plain = escape_commands(re.sub(r"\s+", " ", value))
    return SPECIAL.sub(lambda match: ENTITIES.get(match[0], "\\" + match[0]), plain)


def _fence(text: str) -> Markup:
    """Return a text as a code block whose fence is longer than any fence inside."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}\n{text}\n{fence}")  # noqa: S704 (inside its fence Markdown acts on nothing)


def _format_yaml(data: object) -> str:
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.allow_unicode, writer.sort_base_mapping_type_on_output = True, False  # type: ignore[assignment]
    writer.dump(data, stream)
    return stream.getvalue().strip()


FILTERS: dict[str, Callable[..., object]] = {
    "count": format_count,
    "duration": format_duration,
    "engine_difference": wording.describe_engine_difference,
    "fenced": _fence,
    "interval": format_interval,
    "latency": wording.format_latency,
    "number": format_number,
    "percent": format_percent,
    "signed": format_signed,
    "size": format_bytes,
    "strip_chart": curves.draw_strip,
    "teacher_outputs": wording.list_teacher_outputs,
    "yaml": _format_yaml,
}
"""How templates format values."""
