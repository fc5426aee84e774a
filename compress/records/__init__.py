"""Every file that is written to disk, typed and versioned.

Records are frozen pydantic types; `save` and `read` move them to and from JSON. Imports neither torch nor numpy.
"""

from compress.records.base import SCHEMA_VERSION, Document, Precision, Record, Status, read, save
from compress.records.bundle import (
    CROP_FRACTION,
    DEPTHS,
    FILL,
    PILLOW_MODES,
    BundleFile,
    Exported,
    Manifest,
    Preprocess,
    SampleDifferences,
)
from compress.records.headline import Answer, Headline
from compress.records.metrics import Accuracy, Calibration, McNemar, Paired, Scores, SeedScore
from compress.records.report import DeviceResults, Gate, HostComparison, Ladder, Report, Rung, Sensitivity, Variant, WorstImage
from compress.records.timing import Energy, Environment, Latency, Layer, NativeTiming, Ratio, Sustained, Window
from compress.records.training import (
    METRICS,
    WEIGHTS,
    Analysis,
    EngineTrial,
    EngineTrials,
    Epoch,
    StageResult,
    TeacherOutputsResult,
)

__all__ = [
    "CROP_FRACTION",
    "DEPTHS",
    "FILL",
    "METRICS",
    "PILLOW_MODES",
    "SCHEMA_VERSION",
    "WEIGHTS",
    "Accuracy",
    "Analysis",
    "Answer",
    "BundleFile",
    "Calibration",
    "DeviceResults",
    "Document",
    "Energy",
    "EngineTrial",
    "EngineTrials",
    "Environment",
    "Epoch",
    "Exported",
    "Gate",
    "Headline",
    "HostComparison",
    "Ladder",
    "Latency",
    "Layer",
    "Manifest",
    "McNemar",
    "NativeTiming",
    "Paired",
    "Precision",
    "Preprocess",
    "Ratio",
    "Record",
    "Report",
    "Rung",
    "SampleDifferences",
    "Scores",
    "SeedScore",
    "Sensitivity",
    "StageResult",
    "Status",
    "Sustained",
    "TeacherOutputsResult",
    "Variant",
    "Window",
    "WorstImage",
    "read",
    "save",
]
