"""The recipe: what a run shall do, as frozen, strict data.

`load(path)` reads YAML and returns a `Recipe`, or raises one `RecipeError` that lists every problem with its line. A recipe
is data only: no tags, no code, no dotted import paths; size and aliases are bounded (`yaml.py`). The options of plug-ins are
fields of their section (`method: {name: kd, temperature: 2}`), found by `compress.plugins` without importing them. A list of
one item may stand without brackets, and a plug-in with all its defaults as its name alone (`exports: [onnx, openvino]`).
Imports neither torch nor numpy.
"""

from typing import Literal

from compress.recipe.loader import canonical, dump, json_schema, load, parse, schema
from compress.recipe.sections import (
    METRICS,
    DataSection,
    DeviceSection,
    ExportSection,
    GateSection,
    Int8Section,
    MeasureSection,
    MethodSection,
    Metric,
    ModelSection,
    ProbeSection,
    Recipe,
    StartSection,
    StudentSection,
    TeacherOutputsSection,
    TeacherSection,
    TrackSection,
    TrainSection,
)
from compress.recipe.types import (
    Count,
    Fraction,
    Listing,
    LogitLoss,
    NonNegative,
    PluginSection,
    Positive,
    Section,
    Sha256,
    Share,
    Text,
    WholeNumber,
    get_sides,
)

__all__ = [
    "METRICS",
    "Count", "DataSection", "DeviceSection", "ExportSection", "Fraction", "GateSection", "Int8Section", "Listing", "Literal",
    "LogitLoss", "MeasureSection", "MethodSection", "Metric", "ModelSection", "NonNegative", "PluginSection", "Positive",
    "ProbeSection", "Recipe", "Section", "Sha256", "Share", "StartSection", "StudentSection", "TeacherOutputsSection",
    "TeacherSection", "Text", "TrackSection", "TrainSection", "WholeNumber",
    "canonical", "dump", "get_sides", "json_schema", "load", "parse", "schema",
]  # fmt: skip
