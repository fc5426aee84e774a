"""What killed processes leave is removed by whoever comes next; what a live process writes is never touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from compress.system.files import write_whole
from compress.system.leftovers import make_temporary_folder, name_beside, remove_leftovers

DIE_IN = """
import os, sys
from pathlib import Path
from compress.system.files import write_whole
import shutil
shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), 9)
with write_whole(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "a").write_text(sys.argv[2])
    if sys.argv[3] == "early":
        os.kill(os.getpid(), 9)
"""


def _die(path: Path, text: str, when: str) -> None:
    done = subprocess.run([sys.executable, "-c", DIE_IN, str(path), text, when], check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("when", ["early", "late"])
def test_what_a_killed_process_left_goes_with_the_next_write(when: str, tmp_path: Path) -> None:
    """Killed while it writes a folder, or while it removes the one before, a process leaves nothing for good."""
    for text in ("old", "new"):
        with write_whole(tmp_path / "bundle") as temporary:
            temporary.mkdir()
            (temporary / "a").write_text(text)
        if text == "old":
            _die(tmp_path / "bundle", "killed", when)
            assert len(list(tmp_path.iterdir())) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert (tmp_path / "bundle" / "a").read_text() == "new"


def test_a_folder_that_was_moved_aside_when_its_process_died_gets_its_name_back(tmp_path: Path) -> None:
    """Killed between the two renames of a replacement, a process does not cost the old folder."""
    _die(tmp_path / "bundle", "new", "early")
    (left,) = tmp_path.iterdir()
    left.rename(left.with_suffix(".old"))
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_what_a_live_process_writes_is_left_alone(tmp_path: Path) -> None:
    """Files and folders that are being written survive everybody's tidying."""
    with write_whole(tmp_path / "a") as first, write_whole(tmp_path / "b") as second:
        first.mkdir()
        second.write_text("x")
        remove_leftovers(tmp_path)
        assert first.is_dir()
        assert second.is_file()


def test_a_process_id_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    """The owner is known by when it started, too."""
    mine = name_beside(tmp_path / "a")
    head, start, tail = mine.name.rsplit("-", 2)
    (tmp_path / f"{head}-{int(start) + 1}-{tail}").write_text("of one that is gone")
    mine.write_text("mine")
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [mine]


def test_what_another_machine_writes_is_left_for_a_day(tmp_path: Path) -> None:
    """On a shared disk nobody can see the processes of others; what they left is told by its age."""
    name = name_beside(tmp_path / "a").name.split(".", 2)[2]
    other = tmp_path / f".a.{'0' * 8}{name[8:]}"
    other.write_text("x")
    remove_leftovers(tmp_path)
    assert other.exists()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(other, (long_ago, long_ago))
    remove_leftovers(tmp_path)
    assert not other.exists()


def test_files_that_only_look_alike_stay(tmp_path: Path) -> None:
    """Hidden files of the user with such an ending are not ours."""
    for name in (".a.partial", ".b.old", "c.partial", f".d.{'0' * 8}-1-1-{'0' * 8}.partial~"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path, recursive=True)
    assert len(list(tmp_path.iterdir())) == 4


def test_leftovers_lie_in_folders_below_too(tmp_path: Path) -> None:
    """A run tidies its whole folder."""
    (tmp_path / "inner").mkdir()
    _die(tmp_path / "inner" / "bundle", "x", "early")
    remove_leftovers(tmp_path)
    assert list((tmp_path / "inner").iterdir())
    remove_leftovers(tmp_path, recursive=True)
    assert not list((tmp_path / "inner").iterdir())


def test_temporary_folders_of_killed_processes_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images that a killed run had laid out for its runner do not stay in the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os\nfrom compress.system.leftovers import make_temporary_folder\n"
        "with make_temporary_folder() as folder:\n    (folder / 'images.npy').write_text('x')\n    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (tmp_path / "edge-compress-of-somebody").mkdir()
    assert len(list(tmp_path.iterdir())) == 2
    with make_temporary_folder() as mine, make_temporary_folder() as other:
        assert {path.name for path in tmp_path.iterdir()} == {"edge-compress-of-somebody", mine.name, other.name}
    assert [path.name for path in tmp_path.iterdir()] == ["edge-compress-of-somebody"]


def test_a_long_name_still_has_room_for_its_owner(tmp_path: Path) -> None:
    """A name as long as the file system takes can be written."""
    with write_whole(tmp_path / ("é" * 127)) as temporary:
        temporary.write_text("x")
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]
