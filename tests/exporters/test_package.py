"""The package's own functions, as a library user calls them."""

from __future__ import annotations

import subprocess
import sys

import pytest

import exporters
from compress.errors import CompressError
from compress.recipe import ExportSection, schema


def test_importing_the_package_loads_nothing_heavy():
    """`compress --help` may import it; torch, numpy and the formats come later, and `describe` does not need them either."""
    script = (
        "import sys, exporters; from compress import plugins; assert 'numpy' not in sys.modules;"
        "[plugins.load('exporters', name) for name in plugins.names('exporters')];"
        "heavy = {'torch', 'onnx', 'openvino', 'nncf', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_any_module_is_exported_to_the_path_that_was_named(network, image, images, answers, run, tmp_path):
    """One call with the user's own module and file name; options are those of a recipe."""
    path = exporters.export(network, image, tmp_path / "mine.onnx", format="onnx", options={"opset": 18})
    assert path == tmp_path / "mine.onnx"
    assert abs(run("onnxruntime", path, images) - answers(network, images)).max() < 1e-4


@pytest.mark.parametrize(
    ("file", "format_name", "options", "said"),
    [
        ("a.onnx", "onx", {}, "did you mean 'onnx'"),
        ("a.onnx", "onnx", {"opest": 18}, "exporters/onnx: there is no option 'opest'; did you mean 'opset'"),
        ("a.bin", "openvino", {}, r"a\.bin: a file of format 'openvino' ends in '\.xml'; name it a\.xml"),
    ],
)
def test_wrong_call_is_explained(file, format_name, options, said, network, image, tmp_path):
    """Unknown format or option, and a name that a runtime would not open."""
    with pytest.raises(CompressError, match=said):
        exporters.export(network, image, tmp_path / file, format=format_name, options=options)
    assert list(tmp_path.iterdir()) == []


def test_section_of_a_recipe_becomes_its_exporter():
    """Options of the section are those of the exporter."""
    field = schema().model_fields["exports"]
    assert field is not None
    recipe = schema().model_validate(
        {
            "name": "x",
            "data": {"source": "digits", "image_size": 16},
            "teacher": [{"model": "resnet_cifar.resnet20"}],
            "student": {"model": "resnet_cifar.resnet8"},
            "method": [{"name": "kd"}],
            "exports": [{"format": "openvino", "precision": "fp16"}, {"format": "onnx", "opset": 21}],
        }
    )
    openvino, onnx = (exporters.load(section) for section in recipe.exports)
    assert (openvino.runtime, openvino.precision) == ("openvino", "fp16")
    assert (onnx.runtime, onnx.precision, vars(onnx)["opset"]) == ("onnxruntime", "fp32", 21)


def test_plain_section_takes_the_defaults():
    """A section that names only the format is enough."""
    assert exporters.load(ExportSection(format="onnx")).precision == "fp32"


def test_unknown_attribute_is_an_attribute_error():
    """Lazy names do not swallow typing errors."""
    with pytest.raises(AttributeError, match="has no attribute 'gaet'"):
        exporters.gaet  # noqa: B018 (the look-up is the test)
