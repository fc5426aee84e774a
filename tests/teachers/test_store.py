"""The target store on disk: what is found, made, refused and computed anew."""

from __future__ import annotations

import copy
import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from compress import records
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.system.files import hash_file
from compress.teachers.identity import hash_module
from compress.teachers.store import Store, StoredSignal, ViewRecord, _Writer, find_file_system
from tests.teachers.kept import LOGITS, MAP, ROWS, outputs
from tests.tiny import tiny

DTYPES = {"fp16": np.float16, "fp32": np.float32}


def by_batch(*wholes: Tensor, size: int = 8) -> Iterator[list[Tensor]]:
    yield from zip(*(whole.split(size) for whole in wholes), strict=True)  # type: ignore[misc]


class Said(NamedTuple):
    events: Events
    text: io.StringIO

    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


def listening() -> Said:
    text = io.StringIO()
    return Said(Events(console=Console(file=text)), text)


def open_store(folder: Path, precision: str = "fp32", said: Said | None = None) -> Store:
    return Store(folder, precision=precision, events=said.events if said else Events())


def made(folder: Path, precision: str = "fp32", view: int = 0) -> Path:
    """Keep the outputs for one view, and return the file of the logits."""
    whole = open_store(folder, precision)
    whole.write([LOGITS, MAP], view, by_batch(outputs(LOGITS, view), outputs(MAP, view)))
    (path,) = (folder / LOGITS.key).glob(f"view{view:04}-*.npy")
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.parent.name != "locks")


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_what_was_kept_is_found_by_any_process_rounded_once(tmp_path: Path, precision: str) -> None:
    """Every output comes back at its row, exactly as NumPy rounds it, from files that any NumPy reads."""
    path = made(tmp_path, precision)
    for output in (LOGITS, MAP):
        found = open_store(tmp_path, precision).find(output, 0)
        assert found is not None
        np.testing.assert_array_equal(found, outputs(output).numpy().astype(DTYPES[precision]))
        assert not found.flags.writeable
    np.testing.assert_array_equal(np.load(path), outputs(LOGITS).numpy().astype(DTYPES[precision]))


def test_views_signals_and_precisions_are_apart(tmp_path: Path) -> None:
    """Another view, signal or precision of the same images is not there until it was made."""
    made(tmp_path, "fp16")
    whole = open_store(tmp_path, "fp16")
    assert whole.find(LOGITS, 1) is None
    assert whole.find(LOGITS._replace(key="c" * 64), 0) is None
    assert open_store(tmp_path, "fp32").find(LOGITS, 0) is None
    made(tmp_path, "fp16", view=1)
    one, other = whole.find(LOGITS, 0), whole.find(LOGITS, 1)
    assert one is not None
    assert other is not None
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_the_record_says_the_true_rounding_error(tmp_path: Path, precision: str) -> None:
    """`max_abs_error` is the largest difference between what the teacher said and what was kept, 0 in fp32."""
    made(tmp_path, precision)
    record = open_store(tmp_path, precision).read_record(LOGITS, 0)
    exact = outputs(LOGITS).numpy().astype(np.float64)
    assert record is not None
    assert record.max_abs_error == np.abs(exact - exact.astype(DTYPES[precision])).max()
    assert (record.max_abs_error == 0) == (precision == "fp32")
    assert (record.signal, record.shape, record.view) == ("teacher logits", (ROWS, 5), 0)


def _truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 7)


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbled_record(path: Path) -> None:
    path.with_suffix(".json").write_text('{"schema_version": 2, "sig')


def _of_other_shape(path: Path) -> None:
    """Outputs of another shape, whole in themselves."""
    np.save(path, np.zeros((ROWS, 6), dtype=np.float32))
    _rewrite(path, shape=(ROWS, 6), sha256=hash_file(path))


def _of_other_shape_than_its_record(path: Path) -> None:
    np.save(path, np.zeros((ROWS, 6), dtype=np.float32))
    _rewrite(path, sha256=hash_file(path))


def _of_fewer_rows(path: Path) -> None:
    np.save(path, np.zeros((ROWS - 1, 5), dtype=np.float32))
    _rewrite(path, shape=(ROWS - 1, 5), sha256=hash_file(path))


def _of_other_type(path: Path) -> None:
    np.save(path, np.zeros((ROWS, 5), dtype=np.float64))
    _rewrite(path, sha256=hash_file(path))


def _of_another_signal(path: Path) -> None:
    """The folder of another teacher's logits, copied over this one."""
    other = LOGITS._replace(key="d" * 64)
    open_store(path.parents[1]).write([other], 0, by_batch(outputs(LOGITS) + 1))
    for file in (path.parents[1] / other.key).iterdir():
        (path.parent / file.name).write_bytes(file.read_bytes())


def _of_another_view(path: Path) -> None:
    made(path.parents[1], view=1)
    for suffix in (".npy", ".json"):
        path.with_suffix(suffix).write_bytes(path.with_name(f"view0001-float32{suffix}").read_bytes())


def _rewrite(path: Path, **changed: object) -> None:
    record = records.read(path.with_suffix(".json"), ViewRecord)
    records.save(path.with_suffix(".json"), record.model_copy(update=changed))


@pytest.mark.parametrize(
    "spoil",
    [
        _truncated, _flipped, _empty, _garbled_record, _of_other_shape, _of_other_shape_than_its_record, _of_fewer_rows,
        _of_other_type, _of_another_signal, _of_another_view,
    ],
)  # fmt: skip
def test_what_is_damaged_is_said_once_never_used_and_can_be_made_anew(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Whatever happened to a file or its record: one message with its path, no outputs, and good ones after it was remade."""
    path, said = made(tmp_path), listening()
    spoil(path)
    whole = open_store(tmp_path, said=said)
    assert whole.find(LOGITS, 0) is None
    assert whole.find(LOGITS, 0) is None
    assert said.lines() == [f"teacher_outputs: {path} is damaged; it is computed anew"]
    made(tmp_path)
    found = whole.find(LOGITS, 0)
    assert found is not None
    np.testing.assert_array_equal(found, outputs(LOGITS).numpy())
    assert len(said.lines()) == 1


def test_damage_after_a_file_was_read_is_noticed_when_it_is_opened_again(tmp_path: Path) -> None:
    """The checksum is verified whenever a view is opened, so also in the next round through the views."""
    path = made(tmp_path)
    made(tmp_path, view=1)
    whole = open_store(tmp_path)
    assert whole.find(LOGITS, 0) is not None
    assert whole.find(LOGITS, 1) is not None
    _flipped(path)
    assert whole.find(LOGITS, 0) is None


@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_outputs_without_record_or_record_without_outputs_are_not_there(tmp_path: Path, suffix: str) -> None:
    """What a killed process left between the two files is simply made, without a word."""
    path, said = made(tmp_path), listening()
    path.with_suffix(suffix).unlink()
    assert open_store(tmp_path, said=said).find(LOGITS, 0) is None
    assert said.lines() == []


def test_a_sweep_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """If one of several signals cannot be finished, none is there, not even in part."""

    def broken() -> Iterator[list[Tensor]]:
        yield [outputs(LOGITS)[:8], outputs(MAP)[:8]]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(tmp_path).write([LOGITS, MAP], 0, broken())
    assert left_behind(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from compress.events import Events
from compress.teachers.store import Store
from tests.teachers.kept import LOGITS, MAP, outputs
def dying():
    yield [outputs(LOGITS)[:8], outputs(MAP)[:8]]
    os.kill(os.getpid(), signal.SIGKILL)
whole = Store(Path(sys.argv[1]), precision="fp32", events=Events())
with whole.lock([LOGITS, MAP]):
    whole.write([LOGITS, MAP], 0, dying())
"""


def test_a_process_killed_in_the_middle_leaves_no_outputs_and_no_lock(tmp_path: Path, root: Path) -> None:
    """SIGKILL in a sweep: nothing is found, the next process makes the whole, and what was half-written is removed."""
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False, timeout=300)
    assert killed.returncode == -9
    assert all(name.endswith(".partial") for name in left_behind(tmp_path))
    assert left_behind(tmp_path)
    whole = open_store(tmp_path)
    assert whole.find(LOGITS, 0) is None
    with whole.lock([LOGITS, MAP]):
        made(tmp_path)
    assert whole.find(LOGITS, 0) is not None
    assert left_behind(tmp_path) == sorted(2 * ["view0000-float32.json", "view0000-float32.npy"])


@pytest.mark.parametrize(
    ("worst", "precision", "message"),
    [
        (1e5, "fp16", r"teacher logits reaches 100000, more than float16 holds; set teacher_outputs.precision: fp32"),
        (float("inf"), "fp16", r"teacher logits is not finite for some images; check the teacher's weights"),
        (float("nan"), "fp16", r"is not finite"),
        (float("nan"), "fp32", r"is not finite"),
        (float("-inf"), "fp32", r"is not finite"),
    ],
)
def test_outputs_that_the_store_cannot_hold_are_refused(tmp_path: Path, worst: float, precision: str, message: str) -> None:
    """Beyond half precision, or not finite: refused with whose output it is and what to do, and nothing is kept."""
    whole = outputs(LOGITS)
    whole[13, 2] = worst
    with pytest.raises(CompressError, match=message):
        open_store(tmp_path, precision).write([LOGITS], 0, by_batch(whole))
    assert left_behind(tmp_path) == []


def test_the_largest_half_number_is_kept(tmp_path: Path) -> None:
    """65504 is a half number, so it is no reason to refuse."""
    whole = outputs(LOGITS)
    whole[0, 0] = -65504
    open_store(tmp_path, "fp16").write([LOGITS], 0, by_batch(whole))
    found = open_store(tmp_path, "fp16").find(LOGITS, 0)
    assert found is not None
    assert found[0, 0] == -65504


def test_outputs_whose_shape_changes_or_that_are_too_few_are_refused(tmp_path: Path) -> None:
    """A teacher that gives outputs of another shape for some images, or not all, would shift every later row."""

    def ragged() -> Iterator[list[Tensor]]:
        yield [torch.zeros(10, 5)]
        yield [torch.zeros(10, 6)]

    with pytest.raises(CompressError, match=r"teacher logits is \[6\] for some images and \[5\] for others"):
        open_store(tmp_path).write([LOGITS], 0, ragged())
    for count in (ROWS - 1, ROWS + 1):
        with pytest.raises(CompressError, match=f"{count} outputs for {ROWS} images"):
            open_store(tmp_path).write([LOGITS], 0, by_batch(torch.zeros(count, 5)))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("refusal", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_disk_that_refuses_is_one_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int, after: int
) -> None:
    """However far the writing came: the folder and the reason, no half file, and a later attempt works."""
    written, put = iter(range(99)), _Writer._put

    def refuse(writer: _Writer, data: bytes) -> None:
        if next(written) >= after:
            raise OSError(refusal, os.strerror(refusal))
        put(writer, data)

    with monkeypatch.context() as patch:
        patch.setattr(_Writer, "_put", refuse)
        with pytest.raises(Unreachable, match=rf"cannot be written \({os.strerror(refusal)}\); free space or choose"):
            made(tmp_path)
    assert left_behind(tmp_path) == []
    made(tmp_path)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Give `mounted(*options)`, which mounts something on a folder of its own; skips where that is not allowed."""
    places: list[Path] = []

    def mount(*options: str) -> Path:
        place = tmp_path / f"mounted{len(places)}"
        place.mkdir()
        if sys.platform != "linux" or os.geteuid() != 0:
            pytest.skip("only root may mount")
        if subprocess.run(["mount", *options, str(place)], check=False, capture_output=True).returncode:
            pytest.skip("this machine lets nobody mount")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_is_one_message_and_leaves_room_for_the_next_attempt(mounted: Callable[..., Path]) -> None:
    """On a really full disk nothing half-written stays, and the same work succeeds once there is space."""
    disk = mounted("-t", "tmpfs", "-o", "size=64k", "tmpfs")
    folder, large = disk / "targets", StoredSignal("teacher layer1", "e" * 64, (ROWS, 1000))
    free = psutil.disk_usage(str(disk)).free
    with pytest.raises(
        Unreachable, match=r"cannot be written \(No space left on device\); free space or choose another folder"
    ):
        open_store(folder).write([large], 0, by_batch(outputs(large)))
    assert left_behind(folder) == []
    assert psutil.disk_usage(str(disk)).free >= free - 8192  # a page for each folder
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    open_store(folder).write([large], 0, by_batch(outputs(large)))
    assert open_store(folder).find(large, 0) is not None


def test_a_folder_that_cannot_be_written_serves_what_it_has_and_refuses_the_rest(
    tmp_path: Path, mounted: Callable[..., Path]
) -> None:
    """Read-only outputs are read; making others is refused with the folder and the reason."""
    folder = tmp_path / "targets"
    made(folder)
    frozen = mounted("--bind", str(folder))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(frozen)], check=True)
    whole = open_store(frozen)
    assert whole.find(LOGITS, 0) is not None
    assert whole.find(LOGITS, 1) is None
    with pytest.raises(Unreachable, match=r"cannot be written \(Read-only file system\)"), whole.lock([LOGITS]):
        pytest.fail("there is no lock to have")
    with pytest.raises(Unreachable, match=r"cannot be written \(Read-only file system\)"):
        made(frozen, view=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows counts handles")
def test_open_files_do_not_grow_with_the_views(tmp_path: Path) -> None:
    """Hundreds of epochs with a view each stay far from the limit of open files."""
    whole, process = open_store(tmp_path), psutil.Process()
    for view in range(12):
        made(tmp_path, view=view)
    assert whole.find(LOGITS, 0) is not None
    before = process.num_fds()
    for view in range(12):
        assert whole.find(LOGITS, view) is not None
    assert process.num_fds() <= before


class Mount(NamedTuple):
    mountpoint: str
    fstype: str


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [
        ([("/", "ext4")], "ext4"),
        ([("/", "ext4"), ("/data", "nfs4")], "nfs4"),
        ([("/data", "nfs4"), ("/", "ext4")], "nfs4"),
        ([("/", "ext4"), ("/dat", "nfs4")], "ext4"),
        ([("/", "ext4"), ("/data", "nfs4"), ("/data/runs", "xfs")], "xfs"),
        ([("/", "ext4"), ("/data", "autofs"), ("/data", "nfs4")], "nfs4"),
        ([("/", "ext4"), ("/data", "CIFS")], "cifs"),
        ([], ""),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_last_mount(
    monkeypatch: pytest.MonkeyPatch, mounts: list[tuple[str, str]], expected: str
) -> None:
    """Mounts inside mounts, mounts over mounts and look-alike names are told apart."""
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [Mount(*mount) for mount in mounts])
    assert find_file_system(Path("/data/runs/x")) == expected


class Scaled(nn.Module):
    """Says nothing of its options in its text."""

    def __init__(self, factor: float, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.options = {"factor": factor, "names": names}
        self.register_buffer("mean", torch.zeros(2), persistent=False)

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.options["factor"]


@pytest.mark.parametrize("change", ["weight", "running_mean", "float64", "dropout", "epsilon"])
def test_the_digest_changes_with_whatever_changes_an_output(change: str) -> None:
    """The smallest change of one weight, statistic, type or option is another digest; a copy has the same."""
    network = tiny(8)
    other = copy.deepcopy(network)
    assert hash_module(other) == hash_module(network)
    layer, norm = other.module.first[0], other.module.first[1]
    if change == "weight":
        values = layer.weight.data.view(-1)
        values[3] = torch.nextafter(values[3], torch.tensor(9.0))
    elif change == "running_mean":
        norm.running_mean[0] += 1e-6
    elif change == "float64":
        layer.double()
    elif change == "dropout":
        other.module.dropout.p = 0.2
    else:
        norm.eps *= 2
    assert hash_module(other) != hash_module(network)


def test_the_digest_sees_plain_attributes() -> None:
    """Options that are neither weights nor shown by a module count, too; the mode does not."""
    same = [hash_module(nn.Sequential(Scaled(2.0))) for _ in range(2)]
    assert same[0] == same[1] == hash_module(nn.Sequential(Scaled(2.0)).eval())
    assert hash_module(nn.Sequential(Scaled(3.0))) != same[0]
    assert hash_module(nn.Sequential(Scaled(2.0, ("a", "b")))) != same[0]
    moved = nn.Sequential(Scaled(2.0))
    moved[0].mean += 1
    assert hash_module(moved) != same[0]
