"""torch.export: a program that another process runs without our code."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import numpy as np
import pytest

from exporters.torch import Torch

SCRIPT = """
import sys
import numpy, torch
assert not [name for name in sys.modules if name.split(".")[0] in ("compress", "exporters", "benchmarks")]
sys.meta_path.insert(0, type("Deny", (), {"find_spec": staticmethod(lambda name, path=None, target=None: (_ for _ in ()).throw(
    AssertionError(name)) if name.split(".")[0] in ("compress", "exporters", "benchmarks", "tests") else None)}))
module = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    numpy.save(sys.argv[3], module(torch.from_numpy(numpy.load(sys.argv[2]))).numpy())
"""


@pytest.mark.slow
def test_another_process_runs_it_without_our_code(network, image, images, compute_logits, tmp_path):
    """With torch alone, in another folder, the program gives the network's logits at any batch size."""
    path = Torch().name_file(tmp_path, "student")
    Torch().export(network, image, path)
    np.save(tmp_path / "in.npy", images)
    arguments = [str(path), str(tmp_path / "in.npy"), str(tmp_path / "out.npy")]
    subprocess.run([sys.executable, "-P", "-c", SCRIPT, *arguments], check=True, cwd=tmp_path)
    assert abs(np.load(tmp_path / "out.npy") - compute_logits(network, images)).max() < 1e-5


def test_only_the_sample_inputs_are_pickled(network, image, tmp_path):
    """What we write is raw tensors and JSON; torch pickles the sample inputs, which are zeros."""
    path = Torch().name_file(tmp_path, "student")
    Torch().export(network, image, path)
    with zipfile.ZipFile(path) as archive:
        pickled = [name for name in archive.namelist() if archive.read(name)[:2] in {b"PK", b"\x80\x02", b"\x80\x04"}]
    assert [name.partition("/")[2] for name in pickled] == ["data/sample_inputs/model.pt"]
