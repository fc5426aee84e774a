"""Which file each file's latency is compared with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from compress.run.measure import _find_reference


def file(network: str, precision: str = "fp32") -> Any:
    name = f"{network}-onnx-{precision}"
    return SimpleNamespace(variant=SimpleNamespace(name=name, network=network, format="onnx", precision=precision))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            "teacher",
            {"teacher1-onnx-fp32": "teacher0-onnx-fp32", "student-onnx-fp32": "teacher0-onnx-fp32", "student-onnx-int8": None},
        ),
        ("student", dict.fromkeys(["teacher0-onnx-fp32", "teacher1-onnx-fp32", "student-onnx-int8"], "student-onnx-fp32")),
    ],
)
def test_all_files_have_one_opponent_which_has_none(network: str, expected: dict[str, str | None]) -> None:
    """Of several teachers the first is what all others are compared with, so that a column of ratios means one thing."""
    files = [file("teacher0"), file("teacher1"), file("student"), file("student", "int8")]
    found = {each.variant.name: _find_reference(each, files, network) for each in files}
    assert {name: against for name, against in found.items() if against or name in expected} == expected
