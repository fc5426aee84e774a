"""Weights and state: what is saved comes back, what does not fit changes nothing, what could run code does not run."""

import contextlib
import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress.errors import CompressError, Unreachable
from compress.models import Network
from compress.system.files import hash_file
from compress.training.checkpoint import load_state, load_weights, save_state, save_weights


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)

    def forward(self, images):
        return self.linear(self.bn(self.conv(images)).mean((2, 3)))


def network(seed=0):
    torch.manual_seed(seed)
    return Network(Tiny(), taps=("bn",), classifier="linear")


def equal(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.fixture
def saved(tmp_path):
    """Return a function that pickles anything to a torch file."""

    def write(content):
        torch.save(content, tmp_path / "x.pt")
        return tmp_path / "x.pt"

    return write


def test_weights_and_metadata_come_back(tmp_path):
    """A network loaded from its own file is the same network, bit for bit."""
    save_weights(tmp_path / "w.safetensors", network(0), metadata={"classes": "a,b", "é": "ü"})
    other = network(1)
    assert load_weights(other, tmp_path / "w.safetensors").metadata == {"classes": "a,b", "é": "ü"}
    assert equal(network(0), other)


def test_names_are_those_inside_the_network(tmp_path):
    """What a network saves, the plain module loads, and the other way round."""
    save_weights(tmp_path / "w.safetensors", network(0), metadata={})
    module = Tiny()
    load_weights(module, tmp_path / "w.safetensors")
    assert equal(network(0).module, module)


@pytest.mark.slow
def test_equal_weights_give_equal_bytes_in_every_process(tmp_path):
    """The file does not depend on the process, the order of metadata or the memory layout of a tensor."""
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from compress.training.checkpoint import save_weights; torch.manual_seed(0)\n"
        "layer = torch.nn.Conv2d(3, 4, 3)\n"
        "for name, keys in (('a', 'qwertyuiop'), ('b', 'poiuytrewq')):\n"
        "    save_weights(Path(sys.argv[1]) / name, layer, metadata=dict.fromkeys(keys, 'x'))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
    torch.manual_seed(0)
    save_weights(
        tmp_path / "c", nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), metadata=dict.fromkeys("qwertyuiop", "x")
    )
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


def test_tensors_that_share_memory_are_saved(tmp_path):
    """Tied weights are written and loaded like any others."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    save_weights(tmp_path / "w.safetensors", module, metadata={})
    other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other[1].weight, module[0].weight)


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torch_files_of_training_scripts_load(saved, nest, prefix):
    """A state dict is found under the usual keys, with or without DataParallel's prefix."""
    state = {prefix + name: value for name, value in network(0).module.state_dict().items()}
    path = saved(state if nest is None else {nest: state, "epoch": 3})
    other = network(1)
    assert load_weights(other, path) == ({}, "")
    assert equal(network(0), other)


def test_an_old_file_without_batch_counters_loads(saved):
    """`num_batches_tracked` may be absent, since old torch versions did not save it."""
    state = {name: value for name, value in network(0).module.state_dict().items() if "num_batches" not in name}
    other = network(1)
    load_weights(other, saved(state))
    assert equal(network(0), other)


def test_half_precision_is_converted_and_told(saved, caplog):
    """fp16 weights become the module's fp32, and the log says so."""
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in network(0).module.state_dict().items()
    }
    other = network(1)
    with caplog.at_level("INFO", "compress.training.checkpoint"):
        load_weights(other, saved(state))
    assert "torch.float16 is converted to torch.float32" in caplog.text
    assert torch.equal(other.module.linear.weight, state["linear.weight"].float())
    assert other.module.linear.weight.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_other_precisions_arrive_with_their_values(saved, dtype):
    """Numbers of 8 to 64 bits become the module's float32, each the nearest there is."""
    state = changed(linear__weight=torch.tensor([[0.5, -1.0, 2.0, 0.1], [0, 3.0, -0.25, 7.0]], dtype=torch.float64).to(dtype))
    other = network(1)
    load_weights(other, saved(state))
    assert torch.equal(other.module.linear.weight, state["linear.weight"].float())


def test_numbers_must_fit_the_precision_of_the_network(saved):
    """What is finite in the file and infinite in the network is refused."""
    half = nn.Linear(2, 1).half()
    with pytest.raises(CompressError, match=r"1 with numbers too large for torch\.float16: weight"):
        load_weights(half, saved({"weight": torch.full((1, 2), 1e5), "bias": torch.zeros(1)}))


def changed(**changes):
    state = dict(network(0).module.state_dict())
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    return state


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (changed(conv__weight=None, bn__bias=None), r"2 missing: conv\.weight, bn\.bias"),
        (changed(head=torch.zeros(2)), "1 surplus: head"),
        (changed(linear__weight=torch.zeros(2, 7)), r"1 misshapen: linear\.weight float \[2, 7\] for float \[2, 4\]"),
        (changed(linear__weight=torch.zeros(2, 4, dtype=torch.int8)), r"misshapen: linear\.weight int8"),
        (changed(conv__bias=torch.tensor([0, 1, float("nan"), 2])), r"1 with NaN or infinity: conv\.bias"),
        (changed(conv__bias=torch.tensor([0, 1, 1e300, 2]).double() * 1e300), r"1 with NaN or infinity: conv\.bias"),
        (
            changed(conv__bias=torch.tensor([0, 1, 1e300, 2], dtype=torch.float64)),
            r"x\.pt: 1 with numbers too large for torch.float32: conv\.bias",
        ),
        (
            changed(linear__weight=torch.zeros(2, 4).to_sparse()),
            r"x\.pt: 1 without plain numbers: linear\.weight \(sparse_coo\)",
        ),
        (changed(linear__weight=torch.zeros(2, 4, device="meta")), r"x\.pt: 1 without plain numbers: linear\.weight \(meta\)"),
        (changed(conv__bias=torch.tensor([0, 1, torch.nan, 2]).to(torch.float8_e4m3fn)), r"1 with NaN or infinity: conv\.bias"),
        (
            changed(conv__bias=torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)),
            r"conv\.bias is torch\.float4_e2m1fn_x2",
        ),
        ({f"x{n}": torch.zeros(1) for n in range(9)}, "9 surplus: x0, x1, x2, x3, x4 and 4 more"),
        ({}, "not named tensors"),
        ([1, 2], "holds a list, not named tensors"),
        ({"epoch": 1, "weight": torch.zeros(1)}, "1 not tensors: epoch"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(saved, state, reason):
    """Missing, surplus, misshapen and non-finite tensors are listed, and the module stays as it was."""
    other = network(1)
    with pytest.raises(CompressError, match=reason):
        load_weights(other, saved(state))
    assert equal(network(1), other)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_code_in_a_pickle_is_not_run(tmp_path, write):
    """A checkpoint that would run a command is refused, by both of torch's formats, and the command does not run."""
    trap = tmp_path / "executed"
    write({"weight": Malicious(trap)}, tmp_path / "x.pt")
    with pytest.raises(CompressError, match=r"could run code.*; nothing was loaded: use safetensors"):
        load_weights(network(), tmp_path / "x.pt")
    assert not trap.exists()
    with contextlib.suppress(RuntimeError):  # of a bare pickle, torch finds the format wrong only after running it
        torch.load(tmp_path / "x.pt", weights_only=False)
    assert trap.exists()  # the trap works


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"a pointer of Git LFS .* \(git lfs pull fetches it\)"),
        (b"<!DOCTYPE html><html><body>404", r"a web page \(HTML\)"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, head, what):
    """What a download left in place of the weights is neither called damaged nor suspected of running code."""
    (tmp_path / name).write_bytes(head)
    with pytest.raises(CompressError, match=f": is {what} and holds no weights; get it again"):
        load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("old", [True, False])
def test_a_torch_file_may_be_called_safetensors(tmp_path, old):
    """What a file is says its content, and not what somebody called it."""
    module = network(0)
    torch.save(module.state_dict(), tmp_path / "w.safetensors", _use_new_zipfile_serialization=not old)
    other = network(1)
    load_weights(other, tmp_path / "w.safetensors")
    assert equal(module, other)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_named(tmp_path):
    """It is no damaged file that one could get again."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(CompressError, match=r"is a TorchScript archive, .*: use safetensors, or torch.save\(torch"):
        load_weights(network(), tmp_path / "w.pt")


def test_the_length_of_a_header_is_no_signature(tmp_path):
    """65536 bytes of header begin as an icon does."""
    header = b"{}".ljust(65536)
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CompressError, match="holds no named tensors"):
        load_weights(network(), tmp_path / "w.safetensors")


def whole_file(tmp_path):
    save_weights(tmp_path / "w.safetensors", network(), metadata={})
    return (tmp_path / "w.safetensors").read_bytes()


DAMAGE = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[:-10],
    "truncated header": lambda data: data[:40],
    "huge header": lambda data: struct.pack("<Q", 1 << 60) + data[8:],
    "text": lambda _: b"version https://git-lfs.github.com/spec/v1\n",
    "no json": lambda data: data[:9] + b"\xff" * 20 + data[29:],
}


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_damaged_file_is_told(tmp_path, name, suffix):
    """A damaged file gives one message with its path, whatever it is called, and changes nothing."""
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(DAMAGE[name](whole_file(tmp_path)))
    other = network(1)
    with pytest.raises(CompressError, match=rf"x\.{suffix}: is "):
        load_weights(other, path)
    assert equal(network(1), other)


def test_a_truncated_torch_file_is_told(saved):
    """Half of a torch file gives one message with its path."""
    path = saved(network().module.state_dict())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CompressError, match=r"x\.pt: is "):
        load_weights(network(), path)


@pytest.mark.parametrize(
    "end", [b"J\x01", b"G\x01", b"X\xff", b"q\x01.", b"h\x05.", b"c\xff\n\xff\n.", b"N\x86.", b"\x8a\xff", b"("]
)
def test_a_damaged_pickle_of_old_is_told(tmp_path, end):
    """Whatever torch stumbles over in it, numbers that are cut short among others, there is one message."""
    path = tmp_path / "x.pt"
    path.write_bytes(b"\x80\x02" + end)
    with pytest.raises(CompressError, match=r"x\.pt: is "):
        load_weights(network(), path)


def test_an_old_torch_file_is_told_wherever_it_was_cut(tmp_path):
    """It has no index at its end that would be missing first."""
    path = tmp_path / "x.pt"
    torch.save(network().module.state_dict(), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for kept in range(1, min(len(whole), 600), 7):
        path.write_bytes(whole[:kept])
        with pytest.raises(CompressError, match=r"x\.pt: is "):
            load_weights(network(), path)


def test_the_checksum_is_compared(tmp_path):
    """A wrong checksum names both; the right one loads."""
    path = tmp_path / "w.safetensors"
    save_weights(path, network(), metadata={})
    with pytest.raises(
        CompressError, match=f"has sha256 {hash_file(path)}, not {'0' * 64}; get the right file or correct the checksum"
    ):
        load_weights(network(), path, sha256="0" * 64)
    load_weights(network(), path, sha256=hash_file(path))


def test_a_missing_file_is_unreachable(tmp_path):
    """A path that is not there has its own exit code."""
    with pytest.raises(Unreachable):
        load_weights(network(), tmp_path / "none.safetensors")


def test_a_folder_is_said_to_be_one(tmp_path):
    """A folder given for the file of weights is not called missing or unreadable."""
    with pytest.raises(Unreachable, match=r"is a folder, not a file of weights; name the file in it"):
        load_weights(network(), tmp_path)


def test_training_state_comes_back(tmp_path):
    """Optimiser and generator state survive, so a continued run takes the same steps."""
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "rng": torch.get_rng_state(), "epoch": 3, "best": None, "history": [(1, 0.5)]}
    save_state(tmp_path / "state.pt", state)
    found = load_state(tmp_path / "state.pt")
    assert found["epoch"] == 3
    assert found["history"] == [(1, 0.5)]
    assert torch.equal(found["rng"], state["rng"])
    assert torch.equal(found["optimizer"]["state"][0]["momentum_buffer"], state["optimizer"]["state"][0]["momentum_buffer"])


def test_no_state_is_none(tmp_path):
    """A stage that never ran has no state."""
    assert load_state(tmp_path / "state.pt") is None


@pytest.mark.parametrize("content", [b"", b"\x80garbage", b"PK\x03\x04"])
def test_damaged_state_is_refused(tmp_path, content):
    """State that cannot be read is not skipped in silence."""
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(CompressError, match="damaged"):
        load_state(tmp_path / "state.pt")


def test_no_flipped_bit_of_a_state_is_used(tmp_path):
    """Of a state in which any one bit is another, no number is ever loaded."""
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.randn(100, 100, generator=torch.Generator().manual_seed(0)), "epoch": 1})
    right, random = path.read_bytes(), np.random.default_rng(0)
    for place, bit in zip(random.integers(len(right), size=200), random.integers(8, size=200), strict=True):
        damaged = bytearray(right)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        with pytest.raises(CompressError, match="damaged"):
            load_state(path)


@pytest.mark.parametrize("left", [0, 1, 72, 73, 500])
def test_a_state_that_was_cut_is_refused(left, tmp_path):
    """A state that a power cut left half-written is not loaded."""
    path = tmp_path / "state.pt"
    save_state(path, {"epoch": 1})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(CompressError, match="is damaged, for it does not end with its checksum"):
        load_state(path)


FILL = """
import json, resource, signal, sys, torch
from pathlib import Path
from compress.errors import Unreachable
from compress.training import checkpoint
said = {}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[2:]):
    path = Path(sys.argv[1], str(limit), "state.pt")
    checkpoint.save_state(path, {"epoch": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        checkpoint.save_state(path, {"moving": {str(i): torch.zeros(20000) for i in range(50)}})
    except Unreachable as error:
        said[limit] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert checkpoint.load_state(path) == {"epoch": 1}
    assert [each.name for each in path.parent.iterdir()] == ["state.pt"]
print(json.dumps(said))
"""
LIMITS = (1, 4096, 1_500_000, 4_000_000, 4_009_000)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder, and what a process said whose disk was full after each of some sizes; it looks at what was left itself."""
    folder = tmp_path_factory.mktemp("filled")
    for limit in LIMITS:
        (folder / str(limit)).mkdir()
    command = [sys.executable, "-c", FILL, str(folder), *map(str, LIMITS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.parametrize("limit", LIMITS)
def test_a_disk_that_fills_while_a_state_is_saved_keeps_the_one_before(limit, filled):
    """One message, nothing half-written, and training continues from the state that was there."""
    folder, said = filled
    path = folder / str(limit) / "state.pt"
    assert said[str(limit)] == f"{path}: cannot be written (File too large); free space or choose another folder"


def test_a_giant_is_refused_before_it_is_read(tmp_path):
    """A file far larger than any checkpoint of the network is told by its size."""
    with (tmp_path / "x.pt").open("wb") as file:
        file.truncate(30 << 30)
    with pytest.raises(CompressError, match=r"holds 30.0 GiB, and the network has .* of weights"):
        load_weights(network(), tmp_path / "x.pt")


@pytest.mark.parametrize("path", ["/dev/zero", "pipe"])
def test_weights_that_are_no_file_are_refused(path, tmp_path, monkeypatch):
    """A device does not fill memory, and a pipe does not hang."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    with pytest.raises(CompressError, match="not a file"):
        load_weights(network(), Path(path))


def test_state_that_could_not_be_loaded_is_not_saved(tmp_path):
    """An object that the safe loader refuses is found when saving, not after the crash."""
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\]: a Malicious"):
        save_state(tmp_path / "state.pt", {"a": [1, Malicious("x")]})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # old files are made with it
@pytest.mark.parametrize(
    "write", [torch.save, lambda module, path: torch.jit.save(torch.jit.trace(module, torch.ones(1, 2)), path)]
)
def test_whole_models_are_refused_with_advice(tmp_path, write):
    """A pickled or traced model is code: the message says what to save, and never advises to load it unsafely."""
    write(nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(CompressError, match="use safetensors") as caught:
        load_weights(network(), tmp_path / "x.pt")
    assert "weights_only` set to `False`" not in str(caught.value)


def test_weights_for_another_number_of_classes_are_refused_in_these_words(tmp_path):
    """A teacher that was trained on other classes is named as such, not as misshapen tensors; other misfits still are."""
    module = Tiny()
    module.linear = nn.Linear(4, 5)
    save_weights(tmp_path / "w.safetensors", module, metadata={})
    with pytest.raises(CompressError, match="'linear' has 5 classes and the data has 2; give weights that were trained on"):
        load_weights(network(), tmp_path / "w.safetensors")
    module.conv = nn.Conv2d(3, 4, 5)
    save_weights(tmp_path / "w.safetensors", module, metadata={})
    with pytest.raises(CompressError, match="misshapen"):
        load_weights(network(), tmp_path / "w.safetensors")


def _prune(state: dict[str, Tensor]) -> dict[str, Tensor]:
    pruned = {name.replace("linear.weight", "linear.weight_orig"): value for name, value in state.items()}
    return {**pruned, "linear.weight_mask": torch.ones_like(state["linear.weight"])}


def _rename(state: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in state.items()}


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (_prune, "it was pruned: call torch.nn.utils.prune.remove"),
        (lambda state: _rename(state, "linear.weight", "linear.parametrizations.weight.original"), "remove_parametrizations"),
        (lambda state: _rename(state, "linear.weight", "linear.weight_g"), "remove_weight_norm"),
        (
            lambda state: {name: value for name, value in state.items() if "running" not in name},
            r"save model.state_dict\(\), which holds the statistics of batch norm",
        ),
        (
            lambda state: {name: value.to(torch.int8) if value.ndim > 1 else value for name, value in state.items()},
            "it was quantised",
        ),
        (lambda state: _rename(state, "linear", "head"), "choose the model it was made for"),
    ],
)
def test_how_weights_were_saved_decides_the_advice(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], advice: str
) -> None:
    """Weights of the right network in a form that torch gave them are not called those of another."""
    torch.save(change(Tiny().state_dict()), tmp_path / "x.pt")
    with pytest.raises(CompressError, match=f"does not fit Tiny: .*; .*{advice}"):
        load_weights(Tiny(), tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {"a": "b"}}', "an index of several files of weights"),
        ("x.json", b'{"a": 1}', "is JSON and holds no weights"),
        ("x.npz", None, "is a NumPy archive"),
    ],
)
def test_files_beside_weights_are_named(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
    """What lies beside weights is not called damaged or dangerous."""
    path = tmp_path / name
    if content is None:
        np.savez(path, weight=np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(CompressError, match=words):
        load_weights(Tiny(), path)
