"""Records: numbers that can be defended, and files that are whole or not there."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from compress import records
from compress.errors import CompressError, Interrupted, RecipeError, Unreachable
from compress.records import Accuracy, Environment, Preprocess, Report
from compress.system import files

ENVIRONMENT = Environment(
    packages={"torch": "2.13.0"},
    python="3.11",
    platform="linux",
    cpu="x86",
    cores_physical=None,
    cores_logical=2,
    memory_bytes=1,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("correct", "samples"), [(0, 0), (2, 1), (-1, 5)])
def test_impossible_accuracy_is_refused(correct: int, samples: int) -> None:
    """There is no accuracy without images, nor with more hits than images."""
    with pytest.raises(CompressError, match=f"accuracy of {correct} hits among {samples} images is not defined"):
        Accuracy.from_hits(correct, samples)


def test_an_accuracy_and_its_interval_are_in_percent() -> None:
    """One hit of four is 25 %, with Wilson's interval in the same unit."""
    accuracy = Accuracy.from_hits(1, 4)
    assert (accuracy.top1_percent, accuracy.samples) == (25.0, 4)
    assert accuracy.ci95 == pytest.approx((4.5587, 69.9358), abs=1e-4)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    """What is saved is read back equal, into folders that did not exist."""
    path = tmp_path / "new" / "folder" / "environment.json"
    records.save(path, ENVIRONMENT)
    assert records.read(path, Environment) == ENVIRONMENT
    assert names(path.parent) == ["environment.json"]


def test_records_are_frozen_and_closed() -> None:
    """A record cannot be changed, and a misspelt field is no field."""
    with pytest.raises(ValidationError, match="frozen"):
        ENVIRONMENT.cpu = "other"  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Preprocess.model_validate({"height": 1, "width": 1, "channels": "gray", "mean": [0.5], "std": [1], "sdt": [1]})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "document: Invalid JSON"),
        (b"{", "document: Invalid JSON"),
        (b"\xff", "document: "),
        (b"[]", "document: "),
        (b"{}", "packages: Field required"),
        (b'{"schema_version": "2"}', "schema_version: Input should be 2"),
    ],
)
def test_an_unfit_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    """A file that is no such record is named with its first unfit field."""
    path = tmp_path / "environment.json"
    path.write_bytes(content)
    with pytest.raises(CompressError, match=f"^{path}: is not a Environment of schema version 2: {expected}") as caught:
        records.read(path, Environment)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("version", [1, 3])
def test_a_file_of_another_version_is_told_as_such(tmp_path: Path, version: int) -> None:
    """A record of an older or newer version is refused by its version alone, with what to do about it."""
    path = tmp_path / "environment.json"
    path.write_text(json.dumps({**ENVIRONMENT.model_dump(mode="json"), "schema_version": version, "inside": True}))
    with pytest.raises(CompressError) as caught:
        records.read(path, Environment)
    assert str(caught.value) == (
        f"{path}: has schema version {version}, and this edge-compress reads 2; make it again with `compress run` or "
        "`compress export`, or read it with the version that wrote it"
    )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """A file that is not there is another exit code than a wrong one."""
    with pytest.raises(Unreachable, match=r"gone\.json: cannot be read \(No such file or directory\)"):
        records.read(tmp_path / "gone.json", Report)
    with pytest.raises(Unreachable, match=r"gone\.json: cannot be read"):
        files.hash_file(tmp_path / "gone.json")


def test_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    """The checksum is SHA-256 as everybody computes it."""
    (tmp_path / "file").write_bytes(b"abc")
    assert files.hash_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_whole_replaces_a_file(tmp_path: Path) -> None:
    """Until the block ends the old file is there; then the new one is, and nothing else."""
    path = tmp_path / "weights"
    path.write_text("old")
    with files.write_whole(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent  # a rename within one file system is atomic
    assert path.read_text() == "new"
    assert names(tmp_path) == ["weights"]


def test_write_whole_replaces_a_folder(tmp_path: Path) -> None:
    """A folder is replaced as one: no file of the old one stays."""
    path = tmp_path / "bundle"
    (path / "inner").mkdir(parents=True)
    (path / "inner" / "old").write_text("old")
    with files.write_whole(path) as temporary:
        temporary.mkdir()
        (temporary / "new").write_text("new")
        assert (path / "inner" / "old").exists()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["bundle"]


def break_off(path: Path, error: type[BaseException], *, folder: bool) -> None:
    with files.write_whole(path) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "half").write_text("half")
        else:
            temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Interrupted])
@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_everything_as_it_was(tmp_path: Path, error: type[BaseException], folder: bool) -> None:
    """Whatever ends the block early, Ctrl-C included, passes on and leaves no trace."""
    path = tmp_path / "thing"
    path.write_text("old")
    with pytest.raises(error):
        break_off(path, error, folder=folder)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["thing"]


REFUSED_RENAME = """
import errno, sys
from pathlib import Path
from compress.system import files
from compress.errors import Unreachable
renames = []
def refuse_the_second(event, arguments):
    if event == "os.rename":
        renames.append(arguments)
        if len(renames) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
sys.addaudithook(refuse_the_second)
try:
    with files.write_whole(Path(sys.argv[1])) as temporary:
        temporary.mkdir()
except Unreachable as error:
    print(error)
"""


def test_a_failed_rename_brings_the_old_folder_back(tmp_path: Path) -> None:
    """If the new folder cannot take its place, the old one has it again."""
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "old").write_text("old")
    done = subprocess.run([sys.executable, "-c", REFUSED_RENAME, str(path)], capture_output=True, text=True, check=True)
    assert "No space left on device" in done.stdout
    assert names(path) == ["old"]
    assert names(tmp_path) == ["bundle"]


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What was forced onto the disk, in order, and which names its folder had at that moment."""
    calls: list[tuple[str, list[str]]] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        real(descriptor)
        calls.append((place.name, names(place if place.is_dir() else place.parent)))

    monkeypatch.setattr(os, "fsync", fsync)
    return calls


def test_a_record_is_on_the_disk_before_it_has_its_name(tmp_path: Path, synced: list[tuple[str, list[str]]]) -> None:
    """Against a power cut: first the content under its temporary name, then, after the rename, the name in its folder."""
    records.save(tmp_path / "environment.json", ENVIRONMENT)
    (temporary, before), (folder, after) = synced
    assert temporary.endswith(".partial")
    assert before == [temporary]
    assert (folder, after) == (tmp_path.name, ["environment.json"])


def test_all_of_a_durable_folder_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, synced: list[tuple[str, list[str]]]
) -> None:
    """Its files come first, then its own list of names, then, after the rename, the folder that it is in."""
    with files.write_whole(tmp_path / "stage", durable=True) as temporary:
        temporary.mkdir()
        (temporary / "weights").write_text("new")
    assert [name for name, _ in synced] == ["weights", temporary.name, tmp_path.name]
    assert synced[-1][1] == ["stage"]


def test_what_can_be_made_anew_is_not_forced_onto_the_disk(tmp_path: Path, synced: list[tuple[str, list[str]]]) -> None:
    """Large stores are written at the speed of memory; a power cut costs them, not their correctness."""
    with files.write_whole(tmp_path / "store") as temporary:
        temporary.write_text("large")
    assert not synced


KILLED = """
import os, signal, sys
from pathlib import Path
from compress.system import files
with files.write_whole(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """A process that is killed while it writes leaves the old file as it was."""
    path = tmp_path / "weights"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


FULL = """
import resource, signal, sys
from pathlib import Path
from compress.system import files
from compress.errors import Unreachable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with files.write_whole(Path(sys.argv[1])) as temporary:
        temporary.write_bytes(bytes(2000))
except Unreachable as error:
    print(error)
"""


def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    """A file that cannot be written to its end is said to be so, and neither it nor a part of it is there."""
    path = tmp_path / "weights"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"{path}: cannot be written (File too large); free space or choose another folder\n"
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "reason", "remedy"),
    [
        ("/dev/null/inner/file", "Not a directory", "move away what is in its place"),
        ("{folder}", "Is a directory", "move away what is in its place"),
        ("{folder}/" + "x" * 256, "File name too long", "free space"),
    ],
)
def test_a_path_that_refuses(tmp_path: Path, path: str, reason: str, remedy: str) -> None:
    """A path at which nothing can be written is one message with the reason, and with what helps against it."""
    with pytest.raises(Unreachable, match=f"cannot be written \\({reason}\\); {remedy} or choose another folder"):
        records.save(Path(path.format(folder=tmp_path)), ENVIRONMENT)
    assert names(tmp_path) == []


def test_other_errors_of_the_system_are_not_disguised(tmp_path: Path) -> None:
    """A file that the block itself fails to read is not reported as a full disk."""
    with pytest.raises(FileNotFoundError), files.write_whole(tmp_path / "copy") as temporary:
        temporary.write_bytes((tmp_path / "gone").read_bytes())


def test_a_list_of_problems_survives_another_process() -> None:
    """An error that crosses a process boundary says the same on the other side."""
    again = pickle.loads(pickle.dumps(RecipeError(["x.yaml:1: a", "x.yaml:2: b"])))  # noqa: S301 (our own bytes)
    assert str(again) == "x.yaml:1: a\nx.yaml:2: b"
    assert again.problems == ("x.yaml:1: a", "x.yaml:2: b")
