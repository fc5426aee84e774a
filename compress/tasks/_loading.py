"""Find a task by its name."""

from __future__ import annotations

from compress import plugins
from compress.errors import CompressError
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
