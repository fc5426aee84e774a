"""Find a task by its name, and a metric's title by the name that records give it."""

from __future__ import annotations

from compress import plugins
from compress.errors import CompressError
from compress.recipe import METRICS
from compress.tasks._task import Task


def load_task(name: str) -> Task:
    """Return the task of a name, as a data source states it.

    Raises:
        CompressError: There is no such task, or what is so called is none.
        Unreachable: A package that it needs is not installed.
    """
    kind = plugins.load("tasks", name)
    if not (isinstance(kind, type) and issubclass(kind, Task)):
        raise CompressError(f"tasks/{name}: is no subclass of compress.tasks.Task; derive it from that class")
    return kind()


def name_metric(name: str) -> str:
    """Return what people call a metric of records, `mIoU` for `miou`; one of no known task keeps its name.

    Raises:
        Unreachable: A package that a task needs is not installed.
    """
    tasks = (load_task(each) for each in plugins.list_names("tasks"))
    titles = (each.metric.title for each in tasks if each.metric.name == name)
    return next((title for metric, title in METRICS.items() if metric == name), None) or next(titles, name)
