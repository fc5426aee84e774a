"""How the command line behaves as a process: what it loads, where it writes, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from compress import __version__
from compress.cli.terminal import report_bug

pytestmark = pytest.mark.slow

HEAVY = "torch numpy pydantic"
LOADS = "import sys; from compress.cli.commands import program; program(sys.argv[2:], standalone_mode=False); \
print('loaded:', *sorted(set(sys.argv[1].split()) & set(sys.modules)), file=sys.stderr)"


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["bench", "--help"], ["doctor", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """Asking for help or the version loads neither torch nor numpy nor pydantic."""
    done = subprocess.run([sys.executable, "-c", LOADS, HEAVY, *arguments], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "loaded:"


def test_completion_loads_nothing_heavy() -> None:
    """Pressing Tab in a shell is answered as lightly as --help."""
    asked = os.environ | {"_COMPRESS_COMPLETE": "bash_complete", "COMP_WORDS": "compress ver", "COMP_CWORD": "1"}
    code = (
        "import atexit, sys; sys.argv = ['compress']; from compress.cli import main; "
        f"atexit.register(lambda: print(*sorted({{*{HEAVY.split()}}} & set(sys.modules)), file=sys.stderr)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=asked)
    assert done.stdout.split() == ["plain,verify"]
    assert done.stderr.strip() == ""


def test_help_is_quick() -> None:
    """`compress --help` takes less than a quarter of a second of a core; the best of three, and not what others take."""
    seconds = []
    for _ in range(3):
        before = os.times()
        process("--help")
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # user and system time of children
    assert min(seconds) < 0.25


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A recipe, and how a process that tells at last what it loaded checked it with --json."""
    recipe = tmp_path_factory.mktemp("checked") / "tiny.yaml"
    recipe.write_text(tiny_recipe, encoding="utf-8")
    arguments = [sys.executable, "-c", LOADS, "onnx onnxruntime openvino nncf sklearn", "check", str(recipe), "--json"]
    return recipe, subprocess.run(arguments, capture_output=True, text=True, check=True)


def test_check_loads_no_runtime(checked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """A recipe is rehearsed in torch, without any runtime and without the data, and nothing is said on stderr."""
    assert checked[1].stderr == "loaded:\n"


def test_closed_pipe_ends_quietly() -> None:
    """`compress list | head -1` ends like every other program whose reader has gone: no traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "compress", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        said = running.stderr.read()
    assert (running.returncode, said) == (141, b"")


def test_full_disk_is_said() -> None:
    """Results that cannot be written for want of space are a message and exit code 5, not a traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "compress", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 5
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_changes_no_exit_code(closed: str) -> None:
    """Started without a stream, a command works, and a refusal keeps its exit code."""
    for command, exit_code in (("list methods", 0), ("check nowhere.yaml", 5)):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m compress {command} {closed}"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (exit_code, False)


def test_a_message_that_cannot_be_written_keeps_its_exit_code() -> None:
    """Where stderr is full, the exit code still tells what happened."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "compress", "check", "nowhere.yaml"], stderr=full, check=False)
    assert done.returncode == 5


STREAMS = """
import os, sys
os.close(1)
sys.stdout = None
from compress.cli.terminal import open_closed_streams
open_closed_streams()
with open(sys.argv[1], "w") as file:
    os.write(1, b"from a library")
    print("from Python", flush=True)
    file.write("whole")
"""


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """What a library prints to a closed stdout does not end up in the next file that is opened."""
    subprocess.run([sys.executable, "-c", STREAMS, str(tmp_path / "file")], check=True)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "whole"


def test_interrupt_is_130_without_traceback(tmp_path: Path) -> None:
    """Ctrl-C outside a run ends with one line and exit code 130."""
    command = [sys.executable, "-m", "compress", "doctor", "--runs", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        while not psutil.Process(running.pid).children():  # each runtime is tried in a process of its own
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert said.startswith("interrupted")


def test_unexpected_errors_are_called_ours(capsys: pytest.CaptureFixture[str]) -> None:
    """What nobody foresaw keeps its traceback and says whose fault it is."""
    error = ZeroDivisionError("division by zero")
    report_bug(ZeroDivisionError, error, None)
    said = capsys.readouterr().err
    assert said.startswith("ZeroDivisionError: division by zero")
    assert said.endswith("this is a bug in compress (ZeroDivisionError); please report the lines above\n")


def test_verbose_logs_to_stderr(checked: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """--verbose logs, first of all versions and arguments, on stderr alone; without it nothing of that is seen."""
    recipe, quiet = checked
    loud = process("check", recipe, "--json", "--verbose")
    assert quiet.stderr == "loaded:\n"
    assert loud.stderr.startswith(f"INFO compress.cli.terminal: edge-compress {__version__}")
    said, same = (json.loads(each.stdout) for each in (loud, quiet))
    assert {**said, "estimate": None} == {**same, "estimate": None}  # a step is timed for it
    assert said["estimate"].keys() == same["estimate"].keys()


TERMINATED = """
import signal
from compress.system.signals import treat_sigterm_as_interrupt
signal.signal(signal.SIGTERM, signal.SIG_DFL)
try:
    with treat_sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as under some supervisors
with treat_sigterm_as_interrupt():
    signal.raise_signal(signal.SIGTERM)
print("ignored")
"""


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    """Whatever a command is at, files and processes are tidied up behind it; before and after, SIGTERM is what it was."""
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\nignored\n", "")


ENCODINGS = ("cp1252", "ascii", "latin-1", "utf-8")
CONSOLES = """
import io, sys
from pathlib import Path
from compress.cli import main
recipe, runs, out, *encodings = sys.argv[1:]
for number, encoding in enumerate(encodings):
    for options in ([], ["--json"]):
        sys.stdout, sys.stderr = streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        sys.argv = ["compress", "check", recipe, "--runs", runs, *options]
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        for stream in streams:
            stream.flush()
        said, told = (stream.buffer.getvalue() for stream in streams)
        Path(out, f"{number} {len(options)} out").write_bytes(said)
        Path(out, f"{number} {len(options)} err").write_bytes(told + str(status).encode())
"""
"""Checks a recipe on consoles of several encodings in turn; torch is imported once."""


@pytest.fixture(scope="module")
def consoles(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str) -> Path:
    """What `compress check` writes to consoles of every encoding, with and without --json."""
    folder = tmp_path_factory.mktemp("consoles")
    recipe = folder / "tiny.yaml"
    recipe.write_text(tiny_recipe.replace("name: tiny", "name: tiny  # 猫"), encoding="utf-8")
    command = [sys.executable, "-c", CONSOLES, str(recipe), str(folder / "猫"), str(folder), *ENCODINGS]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONUTF8": "0"})
    return folder


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_console_is_too_poor_to_answer(consoles: Path, encoding: str, options: list[str]) -> None:
    """Names and signs that a console cannot show are replaced, and JSON is the same document in every encoding."""
    case = f"{ENCODINGS.index(encoding)} {len(options)}"
    said, told = ((consoles / f"{case} {stream}").read_bytes() for stream in ("out", "err"))
    assert told.endswith(b"0"), told
    assert b"Traceback" not in told
    if options:
        assert json.loads(said.decode("utf-8"))["folder"].endswith("猫/tiny")
    else:
        shown = "猫" if encoding == "utf-8" else "\\u732b"
        assert shown in said.decode(encoding)
        assert "\\xd7" not in said.decode(encoding)  # our own signs are said otherwise


def test_output_without_terminal_is_plain(consoles: Path) -> None:
    """What goes to a file holds no colour codes."""
    for path in consoles.glob("* 0 *"):
        assert b"\x1b" not in path.read_bytes()


def test_an_error_is_said_on_any_console(tmp_path: Path) -> None:
    """A message with a name that the console cannot show is no traceback, and names that are no UTF-8 are escaped."""
    for name in ("猫.yaml", os.fsdecode(b"caf\xe9.yaml")):
        for encoding in ("ascii", "cp1252", "utf-8"):
            command = [sys.executable, "-m", "compress", "check", str(tmp_path / name), "--json"]
            asked = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
            done = subprocess.run(command, capture_output=True, check=False, env=asked)
            assert done.returncode == 5, done.stderr
            assert "cannot be read" in json.loads(done.stdout.decode("utf-8"))["error"]
            assert b"Traceback" not in done.stderr
