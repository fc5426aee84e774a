"""What networks are trained for, one file a task, and the contract: labels, loss, and judging by one row of numbers an image.

`Task` is the contract, `load_task` finds a task by its name, `Classification` is the one that is meant where nothing is said.
Other distributions add tasks by the entry point `compress.tasks`.
"""

from pathlib import Path

from compress.tasks._cells import Level, find_levels
from compress.tasks._detections import (
    MOST_CANDIDATES,
    MOST_DETECTIONS,
    MOST_OVERLAP,
    SHOWN_SCORE,
    Detections,
    choose_detections,
    draw_boxes,
)
from compress.tasks._loading import load_task, name_metric
from compress.tasks._maps import Region, draw_map, is_map, lay_over, list_regions
from compress.tasks._task import Labels, Logits, Metric, Tallies, Task, Weights
from compress.tasks.classification import Classification

DETECTIONS_PROGRAM = Path(__file__).with_name("_detections.py")
"""What chooses among the answers of a detector; it stands alone, and bundles hold a copy."""
CLASSIFICATION = Classification()
"""The task of data that names none."""

__all__ = [
    "CLASSIFICATION", "DETECTIONS_PROGRAM", "MOST_CANDIDATES", "MOST_DETECTIONS", "MOST_OVERLAP", "SHOWN_SCORE",
    "Classification", "Detections", "Labels", "Level", "Logits", "Metric", "Region", "Tallies", "Task", "Weights",
    "choose_detections", "draw_boxes", "draw_map", "find_levels", "is_map", "lay_over", "list_regions", "load_task",
    "name_metric",
]  # fmt: skip
