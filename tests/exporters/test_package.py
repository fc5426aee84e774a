"""The package's own functions, as a library user calls them."""

from __future__ import annotations

import os
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
        "[plugins.load('exporters', name) for name in plugins.list_names('exporters')];"
        "heavy = {'torch', 'onnx', 'openvino', 'nncf', 'onnxruntime'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_any_module_is_exported_to_the_path_that_was_named(network, image, images, compute_logits, run, tmp_path):
    """One call with the user's own module and file name; options are those of a recipe."""
    path = exporters.export(network, image, tmp_path / "mine.onnx", format="onnx", options={"opset": 18})
    assert path == tmp_path / "mine.onnx"
    assert abs(run("onnxruntime", path, images) - compute_logits(network, images)).max() < 1e-4


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


EXPORT_AND_LOOK_INSIDE = """
import sys
from pathlib import Path
import numpy as np, torch
from torch import nn
import exporters
from exporters.verification.intermediates import open_graph

torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
images, folder = np.random.default_rng(0).normal(size=(8, 3, 8, 8)).astype(np.float32), Path(sys.argv[1])
for precision, calibration in (("fp16", None), ("int8", images)):
    path = folder / f"{precision}.onnx"
    exporters.export(
        network, torch.zeros(1, 3, 8, 8), path, format="onnx", options={"precision": precision}, calibration=calibration
    )
    print(len(open_graph(path).run(images)))
"""


@pytest.mark.slow
def test_exporting_leaves_nothing_in_the_users_folders(tmp_path):
    """Conversion, calibration, quantization and inspection run onnxruntime without its telemetry: no file but the exported."""
    inherited = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    folders = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    for name in (*folders, "made"):
        (tmp_path / name).mkdir()
    environment = inherited | {name: str(tmp_path / name) for name in folders}
    command = [sys.executable, "-c", EXPORT_AND_LOOK_INSIDE, str(tmp_path / "made")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["fp16.onnx", "int8.onnx"]
