"""The import hook: torchvision works beside a CPU torch, and nothing changes where its own library loads.

Each test is a process of its own, since an import happens once.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

cpu_only = pytest.mark.skipif(torch.version.cuda is not None, reason="beside a CUDA torch the hook does nothing")


def run(script, *, path=None):
    """Run a script in a fresh interpreter that treats warnings as errors, and return what it prints."""
    file = Path(path) / "script.py"
    file.write_text(script, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(file)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_installing_loads_nothing_heavy(tmp_path):
    """Importing the package installs one hook and imports neither torch nor NumPy, however often it is asked to."""
    script = """
import sys, compress
from compress.system import torchvision_hook
torchvision_hook.install()
print([type(finder) for finder in sys.meta_path].count(torchvision_hook._Finder), {"torch", "numpy"} & set(sys.modules))
"""
    assert run(script, path=tmp_path) == "1 set()\n"


@pytest.mark.slow
@cpu_only
def test_models_and_transforms_work(tmp_path):
    """The import succeeds; a network, transforms v2 and the region-of-interest fallback run."""
    script = """
import compress, torch, torchvision
from torchvision.transforms import v2
assert torchvision.models.resnet18(num_classes=5).eval()(torch.rand(1, 3, 64, 64)).shape == (1, 5)
picture = v2.Compose([v2.RandomHorizontalFlip(), v2.RandAugment(), v2.Resize(32)])(torch.zeros(3, 40, 40, dtype=torch.uint8))
assert picture.shape == (3, 32, 32)
print(torchvision.extension._has_ops(), torchvision.ops.roi_align.__globals__["_has_ops"]())
"""
    assert run(script, path=tmp_path) == "True False\n"


@pytest.mark.slow
@cpu_only
def test_nms_keeps_what_brute_force_keeps(tmp_path):
    """Indices equal those of the definition in plain Python: random boxes, equal scores, equal boxes, empty boxes, none."""
    script = """
import compress, torch
from torchvision.ops import nms

def overlap(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union else float("nan")

def reference(boxes, scores, threshold):
    kept = []
    for index in sorted(range(len(boxes)), key=lambda index: -scores[index]):
        if not any(overlap(boxes[other], boxes[index]) > threshold for other in kept):
            kept.append(index)
    return kept

torch.manual_seed(0)
suppressed = 0
for trial in range(60):
    corner = torch.randint(0, 3, (trial, 2)).float()
    boxes = torch.cat([corner, corner + torch.randint(0, 6, (trial, 2))], 1)
    scores = torch.randint(0, 6, (trial,)).float()
    kept = nms(boxes, scores, 0.5).tolist()
    assert kept == reference(boxes.tolist(), scores.tolist(), 0.5), trial
    suppressed += trial - len(kept)
print(suppressed > 100)
"""
    assert run(script, path=tmp_path) == "True\n"


@pytest.mark.slow
@cpu_only
def test_a_spawned_worker_has_the_hook(tmp_path):
    """A fresh worker that unpickles a data set of a module that imports us can use torchvision in it."""
    (tmp_path / "ours.py").write_text("""
import compress
class Pictures:
    def __init__(self, transform): self.transform = transform
    def __len__(self): return 4
    def __getitem__(self, index):
        import torch
        return self.transform(torch.full((3, 8, 8), index, dtype=torch.uint8))
""")
    script = """
import torch
from ours import Pictures
if __name__ == "__main__":
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2
    loader = DataLoader(Pictures(v2.Resize(4)), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    print([tuple(batch.shape) for batch in loader])
"""
    assert run(script, path=tmp_path) == "[(4, 3, 4, 4)]\n"


@cpu_only
def test_nothing_happens_where_the_library_loads(tmp_path):
    """Beside a torchvision whose C++ library loads, the hook declares no operator and replaces nothing."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("from . import extension\nvalue = 42\n")
    (package / "extension.py").write_text("def _has_ops():\n    return 'its own'\n")
    loadable = next((Path(torch.__file__).parent / "lib").glob("libtorch_global_deps.*"))
    (package / "_C.so").write_bytes(loadable.read_bytes())
    script = """
import compress, torchvision, torch
from compress.system import torchvision_hook
print(torchvision.value, torchvision.extension._has_ops(), hasattr(torch.ops.torchvision, "nms"), torchvision_hook._declared)
"""
    assert run(script, path=tmp_path) == "42 its own False []\n"


def test_without_torchvision_the_error_is_the_usual_one(tmp_path):
    """A missing torchvision is still a missing module, and our package imports."""
    script = """
import sys
sys.path = [entry for entry in sys.path if "site-packages" not in entry] + [ROOT]
import compress
try:
    import torchvision
except ModuleNotFoundError as error:
    print(error.name)
"""
    root = Path(__file__).parents[2]
    assert run(script.replace("ROOT", repr(str(root))), path=tmp_path) == "torchvision\n"
