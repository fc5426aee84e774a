"""Write an OpenVINO graph as two files: saved, read again, checked, and only then put in their places, both or neither."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.errors import Unreachable
from compress.system import quiet
from compress.system.files import writable
from exporters._openvino.graph import add_class_and_score, add_normalisation, extract_reason, name_steadily

if TYPE_CHECKING:
    from compress.records import Preprocess


def list_parts(path: Path) -> tuple[Path, Path]:
    """Return the graph and its weights."""
    return (path, path.with_suffix(".bin"))


def write_files(
    model: Any, path: Path, *, check: Callable[[Any], None], half: bool = False, pixels: Preprocess | None = None,
    gives_class: bool = False,
) -> None:  # fmt: skip
    """Write graph and weights, whole or not at all.

    Args:
        model: The finished graph; its nodes are renamed.
        path: Of the graph.
        check: Raises if the graph that was read from the saved files has not the precision of its name.
        half: Store the weights in fp16.
        pixels: The preprocessing to put in front; its constants stay in fp32.
        gives_class: Put class and score behind, which stay in fp32 as well.

    Raises:
        CompressError: `check` does not accept what was stored.
        Unreachable: The disk is full or the folder cannot be written.
    """
    with _replace_together(list_parts(path)) as temporary:
        finished = pixels is None and not gives_class
        stored = _save(model, temporary if finished else temporary.with_name("plain.xml"), path, half=half)
        check(stored)
        if not finished:
            fed = stored if pixels is None else add_normalisation(stored, pixels)
            _save(add_class_and_score(fed) if gives_class else fed, temporary, path, half=False)


def _save(model: Any, temporary: Path, path: Path, *, half: bool) -> Any:
    """Save a graph and return what is read again, for a full disk can go unnoticed."""
    openvino = quiet.import_openvino()
    name_steadily(model)
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the files will be moved
    try:
        openvino.save_model(model, temporary, compress_to_fp16=half)
        return core.read_model(temporary)
    except RuntimeError as error:
        reason = extract_reason(error)
        raise Unreachable(f"{path}: cannot be written ({reason}); free space or choose another folder") from error


@contextmanager
def _replace_together(places: tuple[Path, Path]) -> Iterator[Path]:
    """Give a temporary path for the graph; graph and weights take their places together, or neither does.

    An older graph is removed before the weights change, so a graph that is there always fits the weights beside it.

    Raises:
        Unreachable: The disk is full or the folder cannot be written.
    """
    graph, weights = places
    with writable(graph):
        graph.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=graph.parent, prefix=f".{graph.name}.") as folder:
            temporary = Path(folder) / graph.name
            yield temporary
            graph.unlink(missing_ok=True)
            temporary.with_suffix(".bin").replace(weights)
            temporary.replace(graph)
