"""The recipe: what a run shall do, as frozen, strict data.

`load(path)` reads YAML and returns a `Recipe`, or raises one `RecipeError` that lists every problem with its line. A recipe
is data only: no tags, no code, no dotted import paths; size and aliases are bounded. The options of plug-ins are fields of
their section (`method: {name: kd, temperature: 2}`), found by `compress.plugins` without importing them. Imports neither
torch nor numpy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, create_model
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from compress import plugins
from compress.errors import CompressError, RecipeError, Unreachable

MAX_BYTES = 1 << 20
MAX_NODES = 10_000

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


def _as_tuple(value: object) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return value if value is None else (value,)


T = TypeVar("T")
Listing = Annotated[tuple[T, ...], BeforeValidator(_as_tuple)]
"""A list in which a single item may stand without brackets."""


class Section(BaseModel):
    """A part of the recipe: frozen, strict about types, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


class PluginSection(Section):
    """A section whose further fields are the options of the plug-in that it names."""

    def options(self) -> dict[str, Any]:
        """Return the plug-in's own options: every field that the section's own type does not have."""
        own = next(cls for cls in type(self).__mro__ if cls.__module__ == __name__)
        return {key: getattr(self, key) for key in type(self).model_fields if key not in own.model_fields}


class DataSection(PluginSection):
    """Where the images come from and how they are prepared."""

    source: Text
    """The data source (`compress list data`)."""
    image_size: Count
    """Height and width in pixels that the networks see; images of another size are resized."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How images are resized."""
    mean: Listing[float] | None = None
    """Mean of each channel on the scale 0 to 1; default: that of the training split."""
    std: Listing[Positive] | None = None
    """Standard deviation of each channel on the scale 0 to 1; default: that of the training split."""
    validation_fraction: Fraction = 0.1
    """Share of the training split that is held out, stratified by class, for every choice that is made."""
    crop_padding: WholeNumber = 0
    """Augmentation: pixels of reflected border from which a random crop of the image size is taken."""
    flip: bool = False
    """Augmentation: mirror half of the images left to right."""


class TrainSection(Section):
    """How a network is trained. Every field has a default, so a recipe states only what differs."""

    epochs: Count = 30
    """Passes over the training split."""
    batch_size: Count = 64
    """Images in a step; the last incomplete batch of an epoch is dropped."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: Positive = 0.05
    """Learning rate at the start, after warm-up."""
    momentum: Share = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: NonNegative = 5e-4
    """Weight decay of every trained parameter."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the learning rate falls: along a half cosine to zero, in steps at `milestones`, or not at all."""
    milestones: Listing[Share] = (0.625, 0.75, 0.875)
    """Shares of the epochs after which schedule `step` multiplies the learning rate by `decay`."""
    decay: Fraction = 0.1
    """Factor of schedule `step`."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which the learning rate rises linearly from zero."""
    ema_decay: Fraction | None = None
    """Keep an exponential moving average of the weights with this decay per step; it is what is validated and shipped."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Mixed precision of the forward passes; losses are always computed in fp32."""
    max_gradient_norm: Positive | None = None
    """Clip the gradient to this L2 norm."""
    select: Literal["best", "last"] = "best"
    """Which epoch is kept: the best top-1 on the validation split, or the last."""


class ModelSection(PluginSection):
    """A network."""

    model: Text
    """The network (`compress list models`)."""


class TeacherSection(ModelSection):
    """A teacher: trained here, or with weights from a file."""

    weights: Text | None = None
    """A safetensors or torch file with the teacher's weights, relative to the recipe; without it the teacher is trained."""
    sha256: Sha256 | None = None
    """The checksum that the weights file must have."""
    train: TrainSection | None = None
    """How the teacher is trained; default: like the student."""


class StudentSection(ModelSection):
    """The student: the small network that is shipped."""

    weights: Text | None = None
    """A safetensors or torch file to start from, relative to the recipe; without it the student starts from random weights."""


class MethodSection(PluginSection):
    """One distillation method with its options."""

    name: Text
    """The method (`compress list methods`)."""


class ExportSection(PluginSection):
    """One deployment file."""

    format: Text
    """The format (`compress list exporters`)."""


class DeviceSection(PluginSection):
    """One place where files are measured."""

    device: Text
    """The device (`compress list devices`)."""


class GateSection(Section):
    """What an exported file must hold on its own runtime, on the validation split, to be shipped."""

    max_top1_drop_points: NonNegative = 1.0
    """How many percentage points of top-1 it may lose against the network it came from."""
    min_agreement: Share = 0.98
    """Share of images on which its top-1 class must be that of the network it came from."""
    max_abs_diff: Positive | None = None
    """Largest accepted difference of any logit; default: the bound of the file's precision."""


class MeasureSection(Section):
    """What is measured, and where."""

    devices: Listing[SerializeAsAny[DeviceSection]] = Field(default=(), validate_default=False)
    """Places to run; default: this machine."""
    threads: Count = 1
    """Threads of the runtime."""
    batch_size: Count = 1
    """Images per call for latency."""
    throughput_batch_size: Count = 32
    """Images per call for throughput."""
    rounds: Annotated[int, Field(ge=5)] = 15
    """Interleaved rounds; in each, every file is timed once."""
    seconds: Positive = 12.0
    """Time spent measuring all files together, after warm-up, for each of latency and throughput."""
    against: Literal["teacher", "student"] = "teacher"
    """Whose latency the ratios are taken against."""


class Recipe(Section):
    """A whole run."""

    name: Name
    """Name of the run and of its folder."""
    seed: WholeNumber = 0
    """Seed of everything random: the validation split, initial weights, batch order, augmentation."""
    data: SerializeAsAny[DataSection]
    """The images."""
    teacher: Listing[SerializeAsAny[TeacherSection]]
    """The teacher, or a list of teachers."""
    student: SerializeAsAny[StudentSection]
    """The student."""
    method: Listing[SerializeAsAny[MethodSection]]
    """How the teacher teaches; several methods are combined on one student."""
    baselines: Listing[Listing[SerializeAsAny[MethodSection]]] = ()
    """Methods with which the same student is trained once more, for comparison."""
    train: TrainSection = TrainSection()
    """How the student is trained."""
    exports: Listing[SerializeAsAny[ExportSection]] = Field(default=(), validate_default=False)
    """What is exported."""
    gate: GateSection = GateSection()
    """What an exported file must hold."""
    measure: MeasureSection = MeasureSection()
    """What is measured."""


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: A YAML file.
        overrides: Replaced fields, each `field.path=value` with the value in YAML.

    Raises:
        RecipeError: Every problem that was found, with file and line.
        Unreachable: The file cannot be read.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise Unreachable(f"{path}: cannot be read ({error.strerror}); give the path of a recipe") from error
    return parse(text, str(path), overrides)


def parse(text: bytes, where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from the bytes of a YAML file that is called `where` in messages.

    Raises:
        RecipeError: Every problem that was found, with file and line.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError([f"{where}: is {len(text)} bytes; a recipe has at most {MAX_BYTES}"])
    tree = _yaml(text, where)
    if not isinstance(tree, CommentedMap):
        raise RecipeError([f"{where}:1: a recipe is a mapping of fields; start from `compress init`"])
    try:
        plain = _plain(tree, _Budget(where))
    except RecursionError:
        raise RecipeError([f"{where}: an alias contains itself"]) from None
    overridden = set()
    for override in overrides:
        overridden.add(_override(plain, override))
    try:
        recipe: Recipe = schema().model_validate(plain)
    except ValidationError as error:
        raise RecipeError([_problem(where, tree, detail, overridden) for detail in error.errors()]) from None
    return recipe


@cache
def schema() -> type[Recipe]:
    """Return the type of recipes with the options of all plug-ins that are installed."""
    method = _variants(MethodSection, "methods", "name")
    device = Annotated[_variants(DeviceSection, "devices", "device"), BeforeValidator(_device_shorthand)]
    measure = create_model("MeasureSection", __base__=MeasureSection, devices=_field(MeasureSection, "devices", Listing[device]))
    return create_model(
        "Recipe",
        __base__=Recipe,
        data=_field(Recipe, "data", _variants(DataSection, "data", "source")),
        teacher=_field(Recipe, "teacher", Annotated[Listing[_variants(TeacherSection, "models", "model")], Field(min_length=1)]),
        student=_field(Recipe, "student", _variants(StudentSection, "models", "model")),
        method=_field(Recipe, "method", Annotated[Listing[method], Field(min_length=1)]),
        baselines=_field(Recipe, "baselines", Annotated[tuple[Listing[method], ...], BeforeValidator(_as_tuple)]),
        exports=_field(Recipe, "exports", Listing[_variants(ExportSection, "exporters", "format")]),
        measure=(measure, measure()),
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, for editors."""
    document = schema().model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **document}


def canonical(section: BaseModel) -> str:
    """Return a section as JSON with sorted keys: equal sections give equal text."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def _field(owner: type[Section], name: str, annotation: Any) -> Any:
    field = owner.model_fields[name]
    default = Field(description=field.description) if field.is_required() else Field(field.default, description=field.description)
    return (annotation, default)


def _device_shorthand(value: object) -> object:
    return {"device": value} if isinstance(value, str) else value


_VOCABULARY: Mapping[str, Any] = {
    "Count": Count, "WholeNumber": WholeNumber, "Positive": Positive, "NonNegative": NonNegative, "Fraction": Fraction,
    "Share": Share, "Text": Text, "Sha256": Sha256, "LogitLoss": LogitLoss, "Listing": Listing, "Literal": Literal,
    "bool": bool, "int": int, "float": float, "str": str,
}  # fmt: skip
"""The names that the annotation of a plug-in's option may use."""


def _variants(base: type[PluginSection], kind: plugins.Kind, tag: str) -> Any:
    """Return the union, told apart by the field `tag`, of one section type for each plug-in of a kind."""
    sections = []
    for name in plugins.names(kind):
        plugin = plugins.describe(kind, name)
        fields: dict[str, Any] = {tag: (Literal[name], Field(description=plugin.summary))}
        for option, about in plugin.options.items():
            clash = option in base.model_fields
            try:
                annotation = eval(about.annotation, {"__builtins__": {}}, dict(_VOCABULARY))  # noqa: S307 (installed code's own annotation, closed vocabulary)
            except (NameError, TypeError, SyntaxError) as error:
                raise CompressError(f"{plugin.module}: option {option!r}: annotation {about.annotation!r}: {error}") from error
            if clash:
                raise CompressError(f"{plugin.module}: option {option!r} is already a field of every {kind} section")
            default = ... if about.default is plugins.REQUIRED else about.default
            fields[option] = (annotation, Field(default, description=about.description))
        sections.append(create_model(name, __base__=base, **fields))
    if not sections:
        return base
    union = reduce(lambda left, right: Union[left, right], sections)
    return Annotated[union, Field(discriminator=tag)] if len(sections) > 1 else union


class _Budget:
    """How many values a recipe may still expand to, aliases counted each time that they are used."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.left = MAX_NODES

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise RecipeError([f"{self.where}: expands to more than {MAX_NODES} values; use fewer aliases"])


def _yaml(text: bytes, where: str) -> object:
    loader = YAML(typ="rt", pure=True)
    loader.allow_duplicate_keys = False
    try:
        return loader.load(text.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError([f"{where}: is not UTF-8 text (byte {error.start})"]) from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = (error.problem or str(error)).splitlines()[0]
        raise RecipeError([f"{where}:{line}: {problem}"]) from error
    except YAMLError as error:
        raise RecipeError([f"{where}: is not YAML: {str(error).splitlines()[0]}"]) from error


def _plain(node: object, budget: _Budget) -> Any:
    """Return builtins only; refuse tags, dates and other values that JSON does not have."""
    budget.spend()
    tag = getattr(getattr(node, "tag", None), "value", None)
    if tag is not None and not str(tag).startswith("tag:yaml.org,2002:"):
        raise RecipeError([f"{budget.where}: tag {tag!r} is not allowed; a recipe is plain data"])
    if isinstance(node, CommentedMap):
        for key in node:
            if not isinstance(key, str):
                raise RecipeError([f"{budget.where}:{node.lc.line + 1}: key {key!r} is not text"])
        return {str(key): _plain(value, budget) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        return [_plain(value, budget) for value in node]
    if node is None or isinstance(node, bool):
        return node
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    raise RecipeError([f"{budget.where}: {node!r} is not text, a number, a truth value, a list or a mapping; quote it"])


def _override(tree: dict[str, Any], override: str) -> tuple[str | int, ...]:
    """Set one field in place and return its path."""
    path, equals, text = override.partition("=")
    where = f"--set {override}"
    if not equals or not path:
        raise RecipeError([f"{where}: is not of the form field.path=value"])
    value = _plain(_yaml(text.encode(), where), _Budget(where))
    keys: list[str | int] = [int(key) if key.isdigit() else key for key in path.split(".")]
    node: Any = tree
    for index, key in enumerate(keys):
        last = index == len(keys) - 1
        if isinstance(node, list) and isinstance(key, int) and key < len(node):
            if last:
                node[key] = value
            node = node[key]
        elif isinstance(node, dict) and isinstance(key, str):
            if last:
                node[key] = value
            node = node.setdefault(key, {})
        else:
            raise RecipeError([f"{where}: the recipe has no place {'.'.join(map(str, keys[: index + 1]))!r}"])
    return tuple(keys)


def _problem(where: str, tree: CommentedMap, detail: ErrorDetails, overridden: set[tuple[str | int, ...]]) -> str:
    """Return one line for one validation error: place, field, what is wrong."""
    path, line, section = _locate(tree, detail["loc"])
    field = ".".join(str(part) for part in path) or "recipe"
    by_option = any(path[: len(keys)] == keys for keys in overridden)
    place = "--set" if by_option else f"{where}:{line}"
    return f"{place}: {field}: {_explain(detail, section, path)}"


def _locate(tree: object, location: Sequence[str | int]) -> tuple[tuple[str | int, ...], int, Sequence[str | int]]:
    """Return the path in the file, its line, and the location as pydantic has it, without the union's tags at the end."""
    node, line, path = tree, 1, []
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(node, CommentedMap) and part in node:
            line, node = node.lc.key(part)[0] + 1 if part in node.lc.data else line, node[part]
            path.append(part)
        elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
            line, node = node.lc.item(part)[0] + 1 if part in node.lc.data else line, node[part]
            path.append(part)
        elif isinstance(part, str) and last and isinstance(node, CommentedMap):
            path.append(part)
    return tuple(path), line, location


def _explain(detail: ErrorDetails, location: Sequence[str | int], path: Sequence[str | int]) -> str:
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown field; {plugins.suggestion(str(path[-1]), _siblings(location))}"
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_invalid":
        known = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"there is no {context['tag']!r}; {plugins.suggestion(str(context['tag']), known)}"
    if kind == "union_tag_not_found":
        return f"must name its {context['discriminator']}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return message if isinstance(value, (dict, list, tuple)) else f"{message}, not {value!r}"


def _siblings(location: Sequence[str | int]) -> list[str]:
    """Return the fields that the section at a pydantic location has."""
    here: dict[str, Any] = json_schema()
    definitions = here["$defs"]
    for part in location[:-1]:
        here = next(_step(here, part, definitions), here)
    return list(next(_objects(here, definitions), {}).get("properties", {}))


def _objects(node: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in node:
        yield from _objects(definitions[node["$ref"].rpartition("/")[2]], definitions)
    elif "properties" in node:
        yield node
    for option in node.get("anyOf", ()):
        yield from _objects(option, definitions)


def _step(node: Mapping[str, Any], part: str | int, definitions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    mapping = node.get("discriminator", {}).get("mapping", {})
    if part in mapping:
        yield dict(definitions[mapping[part].rpartition("/")[2]])
    for thing in _objects(node, definitions):
        if part in thing["properties"]:
            yield dict(thing["properties"][part])
    if "items" in node and isinstance(part, int):
        yield dict(node["items"])
    for option in node.get("anyOf", ()):
        yield from _step(option, part, definitions)
