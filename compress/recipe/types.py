"""Types of a recipe: fields, sections, and a section type for every plug-in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, GetJsonSchemaHandler, create_model
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from compress import plugins
from compress.errors import CompressError
from compress.recipe.class_order import tidy_class_order
from compress.system.files import resolve_path

Count = Annotated[int, Field(ge=1)]
WholeNumber = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
LogitLoss = Literal["kd", "dist"]


class _SchemaAlso:
    """Tells editors what else may stand for a value, by a function of the JSON Schema that the value itself has."""

    def __init__(self, also: Callable[[JsonSchemaValue], JsonSchemaValue]) -> None:
        self.also = also

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        full = handler(core)
        return {"anyOf": [full, self.also(full)]}


def _make_tuple(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value if value is None else (value,)


T = TypeVar("T")
Listing = Annotated[tuple[T, ...], BeforeValidator(_make_tuple), _SchemaAlso(lambda full: full["items"])]
"""A list in which a single item may stand without brackets."""
Several = Annotated[tuple[T, ...], Field(min_length=1), BeforeValidator(_make_tuple), _SchemaAlso(lambda full: full["items"])]
"""The same, of at least one item."""


def _tidy_image_size(value: object) -> object:
    """Return a height and width as a pair; of a single number both are that.

    Raises:
        ValueError: It is neither.
    """
    if isinstance(value, list | tuple):
        value = tuple(value)
    sides = value if isinstance(value, tuple) else (value, value)
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
        raise ValueError("a whole number of pixels from 1 on, or [height, width]")
    return value


ImageSize = Annotated[Count | tuple[Count, Count], BeforeValidator(_tidy_image_size)]
"""Height and width in pixels: one number where both are the same."""


def get_sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image size as a recipe has it."""
    return (size, size) if isinstance(size, int) else size


def _tidy_pretrained(value: object) -> object:
    """Return the name of published weights; `true` is those that the package recommends, `false` none.

    Raises:
        ValueError: It is neither a name nor a truth value.
    """
    if isinstance(value, bool):
        return "default" if value else None
    if value is not None and not (isinstance(value, str) and value):
        raise ValueError("true, or the name of published weights")
    return value


Pretrained = Annotated[str | None, BeforeValidator(_tidy_pretrained)]
"""The name of published weights."""


def _tidy_weights_map(value: object) -> object:
    """Return how names of tensors are changed.

    Raises:
        ValueError: It is neither the word nor a mapping of texts.
    """
    if value is None or value == "in_order":
        return value
    if not isinstance(value, dict) or not all(isinstance(each, str) for pair in value.items() for each in pair):
        raise ValueError("in_order, or a mapping {expression: replacement}")
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"a mapping of regular expressions, and {pattern!r} is none ({error})") from error
    return value


WeightsMap = Annotated[Literal["in_order"] | dict[str, str] | None, BeforeValidator(_tidy_weights_map)]
"""How names of tensors in a file become those of the network."""


class Section(BaseModel):
    """A part of the recipe: frozen, strict about types, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True)


ClassOrder = Annotated[str | tuple[str, ...] | dict[str, str], BeforeValidator(tidy_class_order)]
"""The order of a teacher's classes: a word or a file, a list of names, or a mapping."""


class PluginSection(Section):
    """A section whose further fields are the options of the plug-in that it names."""

    shared: ClassVar[frozenset[str]] = frozenset()
    """Fields of the section that are options, too, where a plug-in has an option of that name."""
    plugin_options: ClassVar[frozenset[str]] = frozenset()
    """Options of the plug-in that the section's type was made for."""

    def options(self, base: Path | None = None) -> dict[str, Any]:
        """Return the plug-in's own options: every field that the section's own type does not have, and those that both share.

        Args:
            base: Folder of the recipe. An option `path` that names something there is given as that place, as is one that
                begins with `~` or a variable.
        """
        own = next(cls for cls in type(self).__mro__ if issubclass(cls, PluginSection) and not find_plugin_name(cls))
        shared = self.shared & self.plugin_options
        names = [key for key in type(self).model_fields if key not in own.model_fields or key in shared]
        options = {key: getattr(self, key) for key in names}
        if base is not None and isinstance(options.get("path"), str):
            place = resolve_path(base, options["path"])
            if os.path.exists(place) or place != base / options["path"]:  # noqa: PTH110 (says no of names that are too long)
                options["path"] = str(place.resolve())
        return options


def find_plugin_name(section: type) -> str:
    """Return the plug-in that a type made by `build_section_union` is for; empty for a plain section."""
    return section.__name__.partition(".")[2]


_VOCABULARY: Mapping[str, Any] = {
    "Count": Count, "WholeNumber": WholeNumber, "Positive": Positive, "NonNegative": NonNegative, "Fraction": Fraction,
    "Share": Share, "Text": Text, "Sha256": Sha256, "LogitLoss": LogitLoss, "Listing": Listing, "Literal": Literal,
    "bool": bool, "int": int, "float": float, "str": str, plugins.ANY_VALUE: Any,
}  # fmt: skip
"""The names that the annotation of a plug-in's option may use."""


def build_section_union(base: type[PluginSection], kind: plugins.Kind, tag: str, further: Sequence[str] = ()) -> Any:
    """Return the union, told apart by the field `tag`, of one section type for each plug-in of a kind.

    Args:
        base: The section without options of plug-ins.
        kind: Of the plug-ins.
        tag: The field that names one.
        further: Networks that a recipe names by `module:function`.
    """
    names = [*plugins.list_names(kind), *further]
    union: Any = reduce(or_, (_section(base, plugins.describe(kind, name), tag) for name in names))
    chosen = Annotated[union, Discriminator(tag)] if len(names) > 1 else union

    def read_by_name(value: object) -> object:
        if not isinstance(value, str):
            return value
        scheme, colon, _ = value.partition(":")
        return {tag: scheme, "at": value} if kind == "devices" and colon else {tag: value}

    return Annotated[chosen, BeforeValidator(read_by_name), _SchemaAlso(lambda _full: _list_short_forms(kind, tag, names))]


def _list_short_forms(kind: plugins.Kind, tag: str, names: list[str]) -> JsonSchemaValue:
    """Return what else may stand for a section: the name alone, and of networks also `module:function`."""
    if kind == "devices":
        return {"anyOf": [{"enum": names}, {"type": "string", "pattern": f"^({'|'.join(names)}):.+"}]}
    if kind != "models":
        return {"enum": names}
    reference = {"type": "string", "pattern": f"^{plugins.REFERENCE_PATTERN}$"}
    section = {"type": "object", "properties": {tag: reference}, "required": [tag]}
    return {"anyOf": [{"enum": names}, reference, section]}


def _make_field(annotation: Any, option: plugins.Option) -> tuple[Any, Any]:
    default = ... if option.default is plugins.REQUIRED else option.default
    return annotation, Field(default, description=option.description)


def _section(base: type[PluginSection], plugin: plugins.Plugin, tag: str) -> type[PluginSection]:
    fields: dict[str, Any] = {tag: (Literal[plugin.name], Field(description=plugin.summary))}
    for option, about in plugin.options.items():
        where = f"{plugin.module}: option {option!r}"
        if option in base.model_fields and plugin.origin == "reference" and about.default is not plugins.REQUIRED:
            continue  # a function that was not written for recipes keeps its own default
        if option in base.model_fields and option not in base.shared:
            raise CompressError(f"{where} is already a field of every {plugin.kind} section; rename it")
        try:
            annotation = eval(about.annotation, {"__builtins__": {}}, dict(_VOCABULARY))  # noqa: S307 (installed code's own annotation, closed vocabulary)
        except (NameError, TypeError, SyntaxError, AttributeError) as error:
            if plugin.kind == "models" and plugin.origin != "ours":
                fields[option] = _make_field(Any, about)
                continue
            raise CompressError(
                f"{where}: annotation {about.annotation!r}: {error}; use the types of compress.recipe"
            ) from error
        fields[option] = _make_field(annotation, about)
    # descriptions are given above; pydantic would look for docstrings of fields that no source holds
    section = create_model(
        f"{base.__name__}.{plugin.name}", __base__=base, __cls_kwargs__={"use_attribute_docstrings": False}, **fields
    )
    section.plugin_options = frozenset(plugin.options)
    return section
