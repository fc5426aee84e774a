"""Jobs on a board: what breaks on the way, on the board, or in what it answers; the board is a folder behind a shell.

Agent, keeper, runner and processes are the real ones; what fails is the connection, the disk, or a hostile agent.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.devices import Detached
from benchmarks.devices._board import files
from benchmarks.devices._remote import Remote, ledger
from benchmarks.devices._remote.agent import pack_agent
from benchmarks.devices._remote.board import hash_files
from benchmarks.devices._remote.packing import list_files
from benchmarks.devices._results import check_results
from compress.errors import CompressError, RuntimeCrashed, Unreachable
from tests.benchmarks.boards import Shell, make_images, make_job

pytestmark = pytest.mark.slow
LONG_SECONDS = 60


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A board that is there and empty."""
    monkeypatch.setenv(ledger.FOLDER, str(tmp_path / "ledger"))
    (tmp_path / "home").mkdir()
    return Shell(tmp_path / "home")


@pytest.fixture
def board(shell: Shell) -> Iterator[Remote]:
    """The board as a device; whatever still runs there afterwards is ended."""
    remote = Remote(shell, "ssh://board", "board", lost_minutes=0.5)
    yield remote
    shell.failures.clear()
    for job in jobs_of(shell):
        if (job / "state.json").exists():
            remote.agent.ask("stop", {"job": job.name})


def ours(shell: Shell) -> Path:
    return shell.home / ".cache" / "edge-compress"


def jobs_of(shell: Shell) -> list[Path]:
    return sorted(ours(shell).glob("jobs/*"))


def run(board: Remote, job: Path, *, seconds: float = LONG_SECONDS, progress: Callable[..., None] = lambda *_: None) -> None:
    board.run(job, timeout_seconds=seconds, progress=progress)


def collect(seen: list[tuple[int, int, str]]) -> Callable[..., None]:
    def add(*step: object) -> None:
        seen.append(step)

    return add


def wait_for(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG_SECONDS
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def state_of(job: Path) -> dict:
    wait_for((job / "state.json").exists)
    return json.loads((job / "state.json").read_text())


def start_detached(board: Remote, job: Path, *, seconds: float = LONG_SECONDS) -> str:
    board.detach = True
    with pytest.raises(Detached) as caught:
        run(board, job, seconds=seconds)
    board.detach = False
    return caught.value.job


def test_a_job_gives_the_same_and_leaves_nothing_but_its_files(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Results are those of the runner, four calls make a job, the job is removed, and nobody else may read what is ours."""
    job, seen = make_job(tmp_path / "job", images=make_images()), []
    run(board, job, progress=collect(seen))
    assert np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))
    assert json.loads((job / "result.json").read_text())["effective"]["omp"] == "1"
    assert seen[-1] == (16, 16, "culprit")
    assert [script.rpartition(" ")[2] for script in shell.scripts][-4:] == ["open", "put", "follow", "take"]
    assert jobs_of(shell) == []
    assert stat.S_IMODE(ours(shell).stat().st_mode) == 0o700
    assert not list((ledger.find_ledger()).glob("*"))


def test_a_second_job_sends_what_is_new_and_images_a_quarter(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Counted in bytes on the way: the same files again are under 64 KiB, and images of pixels are sent as one byte each."""
    images = make_images(count=32)
    shell.sent = tmp_path / "sent"
    run(board, make_job(tmp_path / "first", images=images))
    first = sum(map(int, shell.sent.read_text().split()))
    shell.sent.unlink()
    run(board, make_job(tmp_path / "second", images=images))
    second = sum(map(int, shell.sent.read_text().split()))
    assert images.size < first < images.size + (1 << 17)  # agent, programs and runtime
    assert second < 1 << 14


def test_images_that_are_no_pixels_arrive_as_they_are(board: Remote, tmp_path: Path) -> None:
    """Floats beyond 256 values, NaN and zeros of both signs arrive bit by bit."""
    images = np.random.default_rng(0).standard_normal((8, 3, 64, 64)).astype(np.float32)
    images[0, 0, 0] = np.float32("nan")
    job = make_job(tmp_path / "job", images=images)
    run(board, job)
    zeros = np.zeros((16, 3, 64, 64), np.float32)
    zeros[::2] = -zeros[::2]
    run(board, make_job(tmp_path / "zeros", "images = 1 / images", images=zeros))
    expected = np.where(np.arange(16) % 2 == 0, -np.inf, np.inf)
    assert np.load(tmp_path / "zeros" / "logits.npy")[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param({"put": ["in:20000"]}, id="while pushing"),
        pytest.param({"put": ["out:1"]}, id="before put answers"),
        pytest.param({"put": ["in:300", "away"]}, id="twice"),
        pytest.param({"put": ["in:20"], "follow": ["in:20"], "take": ["in:20"]}, id="within a request"),
        pytest.param({"follow": ["out:20", "away", "out:60", "out:200"]}, id="while following"),
        pytest.param({"take": ["out:120", "away"]}, id="while fetching"),
        pytest.param({"take": ["out:30"]}, id="before fetching"),
    ],
)
def test_a_connection_that_breaks_is_taken_up_again(
    failures: dict[str, list[str]], shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """Wherever it is cut, the job runs once, no progress is lost or doubled, and the results are whole."""
    job, seen = make_job(tmp_path / "job", images=make_images()), []
    shell.failures = failures
    run(board, job, progress=collect(seen))
    assert not any(failures.values())
    assert np.array_equal(np.load(job / "logits.npy"), np.load(job / "images.npy").mean(axis=(2, 3)))
    steps = [done for done, total, doing in seen if doing == "culprit"]
    assert steps == list(range(2, 17, 2))
    assert jobs_of(shell) == []


def test_a_connection_that_stays_away_names_the_job(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """After the allowed time the job's number is said; it goes on, and is fetched later."""
    job = make_job(tmp_path / "job")
    board.lost_minutes, shell.failures = 1e-3, {"follow": ["away"] * 9}
    with pytest.raises(
        Unreachable, match=r"\Aboard: Connection refused; no connection for .* s; the job (\w+) goes on there; "
    ):
        run(board, job)
    shell.failures.clear()
    (known,) = (each.name for each in jobs_of(shell))
    assert ledger.read_job(known) == ("ssh://board", {})
    board.attach = known
    run(board, job)
    assert np.load(job / "logits.npy").shape == (5, 3)
    with pytest.raises(CompressError, match=f"job {known}: was not started from here, or was fetched already"):
        ledger.read_job(known)


def test_a_board_that_is_not_there_is_said_at_once(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """The first call is not repeated."""
    shell.failures = {"open": ["away"]}
    with pytest.raises(Unreachable, match=r"\Aboard: Connection refused\Z"):
        run(board, make_job(tmp_path / "job"))
    assert len(shell.scripts) == 1


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        pytest.param(
            "raise ValueError('no such\\n operator')", CompressError, r"\Aboard: culprit: no such operator\Z", id="raises"
        ),
        pytest.param(
            "import nonesuch",
            Unreachable,
            "board: has no package 'nonesuch'.*compress device prepare ssh://board",
            id="package",
        ),
        pytest.param("os.abort()", RuntimeCrashed, r"board: the runner: the runtime crashed .*\(SIGABRT\)", id="aborts"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", Unreachable, "most likely because memory ran out", id="memory"),
        pytest.param("print('bo\\x1b[2Jo', file=sys.stderr); os._exit(3)", Unreachable, "status 3: bo", id="exits"),
        pytest.param("raise OSError(28, 'No space left on device')", Unreachable, "disk there became full", id="full"),
        pytest.param(
            "raise RuntimeError('FAIL : Load model failed: Unsupported model IR version: 13, max supported IR version: 10')",
            Unreachable,
            r"\Aboard: culprit: needs IR version 13, and the runtime reads up to 10; export it for an older opset, or give it "
            r"a newer runtime, for which a board may need a newer Python\Z",
            id="older than the file's format",
        ),
        pytest.param(
            "raise RuntimeError('Opset 26 is under development and support for this is limited. '"
            "'Current official support for domain ai.onnx is till opset 22.')",
            Unreachable,
            r"\Aboard: culprit: needs ONNX opset 26, and the runtime reads up to 22; export it for an older opset",
            id="older than the file's operators",
        ),
        pytest.param(
            "raise RuntimeError('Cannot create MatMul layer logits id:6 from unsupported opset: opset99')",
            Unreachable,
            r"\Aboard: culprit: needs OpenVINO's opset99, which the runtime does not know; export it for an older opset",
            id="older than the file's layers",
        ),
    ],
)
def test_a_runtime_that_fails_there_gives_one_clear_message(
    call: str, kind: type[CompressError], message: str, board: Remote, tmp_path: Path
) -> None:
    """As on this machine, with the board's name before it."""
    with pytest.raises(CompressError, match=message) as caught:
        run(board, make_job(tmp_path / "job", call))
    assert type(caught.value) is kind
    assert not (tmp_path / "job" / "result.json").exists()


def test_a_job_that_is_late_is_ended_there(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """The keeper ends it with all that it started, whether anybody follows or not."""
    call = "open('child', 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    job = make_job(tmp_path / "job", call)
    known = start_detached(board, job, seconds=5)
    (there,) = jobs_of(shell)
    wait_for(lambda: (there / "child").exists() and (there / "child").read_text())
    child = int((there / "child").read_text())
    board.attach = known
    with pytest.raises(Unreachable, match=r"board: culprit: not done after 5 s|board: the runner: not done after 5 s"):
        run(board, job, seconds=5)
    wait_for(lambda: not is_running(child))


def is_running(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


SLEEP = "time.sleep(600)"


def start_sleeping(shell: Shell, board: Remote, tmp_path: Path) -> tuple[Path, str, Path]:
    job = make_job(tmp_path / "sleeping", SLEEP)
    known = start_detached(board, job)
    (there,) = jobs_of(shell)
    return job, known, there


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda _: None, "killed the job's keeper", id="keeper killed"),
        pytest.param(lambda state: state["keeper"].__setitem__(0, os.getpid()), "killed the job's keeper", id="number reused"),
        pytest.param(lambda state: state["keeper"].__setitem__(2, "other"), "board restarted in the middle", id="rebooted"),
    ],
)
def test_a_job_that_vanished_is_no_running_one(
    change: Callable[[dict], None], message: str, shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """A keeper that was killed, a process that has its number by now, and another boot are told from a job that goes on."""
    job, known, there = start_sleeping(shell, board, tmp_path)
    state = state_of(there)
    keeper, runner = state["keeper"][0], state["runner"][0]
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: not is_running(keeper))
    change(state)
    (there / "state.json").write_text(json.dumps(state).ljust(4096))
    board.attach = known
    try:
        with pytest.raises(Unreachable, match=rf"board: the runner: .*{message}.*; start it again"):
            run(board, job)
        if "restarted" not in message:
            wait_for(lambda: not is_running(runner))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(runner, signal.SIGKILL)


def test_a_job_there_keeps_to_its_cores(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """As on this machine, and reports say so; cores that are not there are one line."""
    first = min(os.sched_getaffinity(0))
    limited = Remote(shell, "ssh://board", "board", cpus=str(first))
    call = f"import os; assert os.sched_getaffinity(0) == {{{first}}}"
    run(limited, make_job(tmp_path / "job", call))
    assert limited.name == f"board (cpus {first})"
    with pytest.raises(CompressError, match=r"board \(cpus 4000\): .*are not cores that this process may use"):
        run(Remote(shell, "ssh://board", "board", cpus="4000"), make_job(tmp_path / "other"))


def test_one_job_at_a_time(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """A second job waits and says for whom; one that does not want to wait is refused; neither is lost."""
    _, known, _ = start_sleeping(shell, board, tmp_path)
    second, notes = make_job(tmp_path / "second"), []
    impatient = Remote(shell, "ssh://board", "board", wait=False)
    with pytest.raises(Unreachable, match=r"board: works for .*:\d+ since \d.* UTC; wait for it, or see compress device jobs"):
        run(impatient, second)
    patient = threading.Thread(target=run, args=(board, second), kwargs={"progress": lambda *step: notes.append(step[2])})
    patient.start()
    wait_for(lambda: any(note.startswith("waits: works for") for note in notes))
    with pytest.raises(Unreachable, match=r"board: works for .*; nothing was removed"):
        impatient.clean(everything=True)
    assert [job.state for job in impatient.list_jobs()] == ["running"]
    with pytest.raises(CompressError, match=rf"\Aboard: there is no job \.\./x; there are: {known}\Z"):
        impatient.stop_job("../x")
    impatient.stop_job(known)  # somebody else's
    patient.join(LONG_SECONDS)
    assert np.load(second / "logits.npy").shape == (5, 3)


def test_a_folder_goes_although_somebody_still_writes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that an ended process made while its folder was being emptied is removed too; other errors are not passed over."""
    folder, removals, really = tmp_path / "job", [], shutil.rmtree
    folder.mkdir()

    def rmtree(path: str) -> None:
        removals.append(path)
        if len(removals) < 3:
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        really(path)

    monkeypatch.setattr(files.shutil, "rmtree", rmtree)
    files.remove_folder(folder)
    assert (len(removals), folder.exists()) == (3, False)
    monkeypatch.setattr(files.shutil, "rmtree", lambda _path: (_ for _ in ()).throw(OSError(errno.EACCES, "Permission denied")))
    folder.mkdir()
    with pytest.raises(OSError, match="Permission denied"):
        files.remove_folder(folder)


def test_clean_removes_jobs_and_store_or_all(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Of ours nothing stays there when all is removed, and the next job begins anew."""
    run(board, make_job(tmp_path / "first"))
    assert board.clean(everything=False) == [".cache/edge-compress/jobs", ".cache/edge-compress/store"]
    assert board.clean(everything=False) == []
    assert ".cache/edge-compress/lock" in board.clean(everything=True)
    assert not ours(shell).exists()
    run(board, make_job(tmp_path / "second"))


def test_an_agent_that_was_cut_is_sent_again(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Half an agent never gets its name."""
    shell.failures = {"}": ["in:500"]}
    with pytest.raises(Unreachable, match="board: "):
        run(board, make_job(tmp_path / "job"))
    wait_for(lambda: not list(ours(shell).glob(".agent*")))
    assert not list(ours(shell).glob("agent*"))
    run(board, make_job(tmp_path / "again"))


def test_what_lies_damaged_in_the_store_is_sent_again(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """A file of the right length with another content is not used."""
    job = make_job(tmp_path / "job")
    run(board, job)
    for path in ours(shell).glob("store/*"):
        path.write_bytes(path.read_bytes()[::-1])
    run(board, make_job(tmp_path / "again"))
    assert np.load(tmp_path / "again" / "logits.npy").tolist() == [[1.0] * 3] * 5


def tamper(there: Path, name: str, content: bytes) -> None:
    (there / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda job: tamper(job, "result.json", b"{}" * 400), "another length", id="other length"),
        pytest.param(
            lambda job: tamper(job, "result.json", b" " * (job / "result.json").stat().st_size),
            "another checksum",
            id="content",
        ),
        pytest.param(
            lambda job: promise(job, "../../evil.json"), r"'?\.\./\.\./evil.json'?, which no runner writes", id="path"
        ),
        pytest.param(lambda job: promise(job, "job.json"), "job.json, which no runner writes", id="our own file"),
        pytest.param(lambda job: promise(job, "\x1b[2Jx.npy"), r"\\x1b\[2Jx.npy, which no runner writes", id="escape"),
        pytest.param(lambda job: promise(job, "big.npy", 1 << 50), "big.npy, which no runner writes", id="endless"),
        pytest.param(lambda job: promise(job, "gone.npy", 5), "another length", id="not there"),
        pytest.param(
            lambda job: (job / "status.json").write_text('{"code": 0, "results": [1]}'), "answers results with", id="no names"
        ),
    ],
)
def test_results_that_were_tampered_with_are_refused(
    change: Callable[[Path], None], message: str, shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """What the keeper did not write, or no runner writes, never reaches the job's folder, and nothing beside it."""
    job = make_job(tmp_path / "job")
    board.attach = start_detached(board, job)
    (there,) = jobs_of(shell)
    wait_for(lambda: json.loads((there / "status.json").read_text()).get("results"))
    before = {path for path in tmp_path.rglob("*") if shell.home not in path.parents}
    change(there)
    board.lost_minutes = 1e-3
    with pytest.raises(Unreachable, match=f"board: .*({message})"):
        run(board, job)
    after = {path for path in tmp_path.rglob("*") if shell.home not in path.parents}
    assert {path for path in after - before if not path.name.startswith(".")} == set()


def promise(there: Path, name: str, size: int = 3) -> None:
    status = json.loads((there / "status.json").read_text())
    status["results"] = {name: ["0" * 64, size]}
    (there / "status.json").write_text(json.dumps(status).ljust(4096))


def make_tools(folder: Path) -> Path:
    """Make a folder of what a board has that has no Python."""
    folder.mkdir()
    for tool in ("env", "sh", "mkdir", "cat", "wc", "mv", "rm"):
        (folder / tool).symlink_to(f"/bin/{tool}")
    return folder


def test_a_board_without_python_says_how_to_get_one(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """No Python, one that is too old, and one without numpy are each one line with a remedy."""
    shell.path = str(make_tools(tmp_path / "tools"))
    with pytest.raises(Unreachable, match=r"board: there is no python3 there; install one, .*sudo apt install python3"):
        run(board, make_job(tmp_path / "job"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("#!/nowhere/python\n", "not found", id="its interpreter is missing"),
        pytest.param(
            "#!/bin/sh\necho 'python3: error while loading shared libraries: libexpat.so.1: cannot open' >&2\nexit 127\n",
            "error while loading shared libraries: libexpat.so.1", id="a library is missing",
        ),
        pytest.param("#!/etc\n", "Permission denied", id="it may not be executed"),
        pytest.param("#!/bin/sh\necho 'Exec format error' >&2\nexit 126\n", "Exec format error", id="of another processor"),
    ],
)  # fmt: skip
def test_a_python_that_cannot_be_started_says_why(
    content: str, message: str, shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """It is there, so it is not to be installed; its own last words say what it lacks."""
    tools = make_tools(tmp_path / "tools")
    (tools / "python3").write_text(content)
    (tools / "python3").chmod(0o755)
    shell.path = str(tools)
    with pytest.raises(
        Unreachable, match=rf"\Aboard: python3 cannot be started there \(.*{message}.*\); look at it by hand"
    ) as caught:
        run(board, make_job(tmp_path / "job"))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("echo '[[3, 8, 1], true, {}, {}]'", "has Python 3.8, and jobs need 3.9"),
        (
            """echo '[[3, 9, 1], true, {"numpy": false}, {}]'""",
            "has no package 'numpy', which the job needs: compress device prepare",
        ),
        ("exit 1", "cannot be run there"),
    ],
)
def test_a_python_that_does_not_fit_is_refused_before_anything_is_sent(
    says: str, message: str, shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """Its version and its packages are asked for first."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{says}\n")
    python.chmod(0o755)
    board.python = str(python)
    with pytest.raises(Unreachable, match=f"board: .*{message}"):
        run(board, make_job(tmp_path / "job"))
    assert not (ours(shell) / "store").exists()


def test_a_folder_that_cannot_be_made_is_named(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Exit code 5 and the option that helps."""
    (shell.home / ".cache").write_text("")
    with pytest.raises(
        Unreachable, match=r"board: the folder .cache/edge-compress cannot be made there .*option folder"
    ) as caught:
        run(board, make_job(tmp_path / "job"))
    assert caught.value.exit_code == 5


HOSTILE = "import sys, time; sys.stdin.readline(); {}"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        pytest.param("print('x' * 3_000_000)", "answers with a line of more than 1048576 bytes", id="endless line"),
        pytest.param("print('hello\\n' * 200)", "answers with something else than was asked for", id="chatter"),
        pytest.param("print('[' * 100_000 + ']' * 100_000)", "the connection|ended with status|no answer", id="deep"),
        pytest.param('print(\'{}\'); print(\'{"missing": 5, "runner": [], "error_": 1}\')', "answers runner with", id="types"),
        pytest.param("print('{}'); print('{\"error\": \"\\\\u001b[2J\" }')", r"could not do it: None: \\x1b\[2J", id="escape"),
    ],
)
def test_a_hostile_board_is_one_message(program: str, message: str, shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Whatever it answers, memory is bounded, nothing of it commands the terminal, and the message is one line."""
    name, _ = pack_agent()
    ours(shell).mkdir(parents=True)
    (ours(shell) / name).write_text(HOSTILE.format(program))
    with pytest.raises(Unreachable, match=f"board: .*({message})") as caught:
        run(board, make_job(tmp_path / "job"))
    assert "\x1b" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ('{"done": "1", "total": 2, "doing": "x"}', 0),
        ('{"done": -1, "total": 2, "doing": "x"}', 0),
        ('{"error": 5}', 0),
        ("[" * 50_000, 0),
        ('{"done": 1, "total": 2, "doing": "x\\u001b[2J"}', 1),
    ],
)
def test_a_log_that_no_runner_writes_is_no_progress(line: str, done: int, board: Remote, tmp_path: Path) -> None:
    """Lines of a runtime that look like the runner's do no harm."""
    job, seen = make_job(tmp_path / "job", f"print({line!r}, file=sys.stderr, flush=True)"), []
    run(board, job, progress=collect(seen))
    assert [step[0] for step in seen if step[2] != "culprit"] == [done] * 3 * done
    assert not any("\x1b" in step[2] for step in seen)


@pytest.mark.parametrize(
    ("task", "result", "message"),
    [
        ("evaluate", "[", "no result that can be read"),
        ("evaluate", "[]", "is no object"),
        ("evaluate", "{}", "does not say what ran"),
        ("evaluate", '{"effective": {}, "peak_memory_bytes": "x", "baseline_memory_bytes": 1}', "the memory is no number"),
        ("evaluate", '{"effective": {}, "peak_memory_bytes": 1, "baseline_memory_bytes": null}', "there are no logits"),
        ("measure", '{"subjects": {"other": {}}}', "other files than were sent"),
        ("measure", '{"subjects": {"culprit": {"effective": {}, "settled": true, "rounds_ns": [["x"]]}}}', "are no times"),
        ("measure", '{"subjects": {"culprit": {"effective": {}, "settled": true, "rounds_ns": [[NaN]]}}}', "are no times"),
        (
            "measure",
            '{"subjects": {"culprit": {"effective": {}, "settled": true, "rounds_ns": [[1]]}}}',
            "how long it took to load",
        ),
    ],
)
def test_results_of_another_kind_are_refused(task: str, result: str, message: str, tmp_path: Path) -> None:
    """A result is looked at before anything computes with it."""
    job = make_job(tmp_path / "job", task=task)
    (job / "result.json").write_text(result)
    with pytest.raises(Unreachable, match=message):
        check_results(job, json.loads((job / "job.json").read_text()))


def test_an_array_that_lies_about_its_length_is_refused(tmp_path: Path) -> None:
    """Its head is compared with its length, and objects are never loaded."""
    job = make_job(tmp_path / "job")
    (job / "result.json").write_text('{"effective": {}, "peak_memory_bytes": 1, "baseline_memory_bytes": null}')
    np.save(job / "logits.npy", np.zeros((4, 3), np.float32))
    whole = (job / "logits.npy").read_bytes()
    for content in (whole.replace(b"(4, 3)", b"(9, 9)"), whole[:100], b"\x80\x04}."):
        (job / "logits.npy").write_bytes(content)
        with pytest.raises(Unreachable, match=r"logits\.npy is no array"):
            check_results(job, json.loads((job / "job.json").read_text()))


def test_a_job_is_attached_to_with_its_own_files_only(shell: Shell, board: Remote, tmp_path: Path) -> None:
    """Files that changed since give no result under the old number."""
    job = make_job(tmp_path / "job")
    board.attach = start_detached(board, job)
    (job / "files").mkdir()
    (job / "files" / "more").write_text("x")
    with pytest.raises(CompressError, match=r"board: job .*: was started with other files or settings"):
        run(board, job)
    assert hash_files(list_files(job)) != json.loads((jobs_of(shell)[0] / "request.json").read_text())["digest"]


FOLLOWER = """
import os, signal, sys
from pathlib import Path
from benchmarks.devices._remote import Remote
from compress.errors import Interrupted
from tests.benchmarks.boards import Shell

def say(text):
    print(text, flush=True)
    if "again" in sys.argv:
        signal.setitimer(signal.ITIMER_REAL, 0.2)

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
board = Remote(Shell(Path(sys.argv[1])), "ssh://board", "board", say=say, memo={"paths": []})
try:
    board.run(Path(sys.argv[2]), timeout_seconds=60, progress=interrupt)
except Interrupted as error:
    print(error, error.exit_code)
"""


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_an_interrupt_leaves_the_job_and_a_second_one_ends_it(
    again: bool, shell: Shell, board: Remote, tmp_path: Path, root: Path
) -> None:
    """Ctrl-C stops following and says the job's number; pressed again, the job ends there, too."""
    job = make_job(tmp_path / "job", "time.sleep(1)")
    arguments = [str(shell.home), str(job), *(["again"] if again else [])]
    done = subprocess.run([sys.executable, "-c", FOLLOWER, *arguments], cwd=root, capture_output=True, text=True, check=True)
    first, last = done.stdout.splitlines()
    assert "goes on on board; Ctrl-C again within 3 s stops it there" in first
    if again:
        assert last.endswith("was stopped there, and nothing of it is kept 130")
        assert jobs_of(shell) == []
        return
    (there,) = jobs_of(shell)
    assert last == f"board: the job {there.name} goes on there; fetch it with compress bench --attach {there.name} 130"
    board.attach = there.name
    run(board, job)
    assert np.load(job / "logits.npy").shape == (5, 3)


@pytest.fixture
def small_disk(shell: Shell) -> Iterator[None]:
    """A board with little room; skipped where none can be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(shell.home)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here; it takes root")
    yield
    subprocess.run(["umount", "-l", str(shell.home)], check=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_sent(small_disk: None, board: Remote, tmp_path: Path) -> None:
    """With the bytes that are needed, those that are free, and the remedy."""
    images = np.random.default_rng(0).standard_normal((16, 3, 300, 300)).astype(np.float32)
    with pytest.raises(
        Unreachable, match=r"board: 24\.\d MiB are needed in .* and 2\d\.\d MiB are free; .*device clean ssh://board"
    ):
        run(board, make_job(tmp_path / "job", images=images))


def test_a_disk_that_fills_while_a_job_runs_is_no_killed_job(
    small_disk: None, shell: Shell, board: Remote, tmp_path: Path
) -> None:
    """How the job ended is written into room that was kept for it."""
    fill = "open('fill', 'wb', buffering=0).write(b'x' * (1 << 25)); open('more', 'wb', buffering=0).write(b'x' * (1 << 25))"
    with pytest.raises(Unreachable, match=r"board: .*the disk there became full; free space: compress device clean"):
        run(board, make_job(tmp_path / "job", fill))
    assert board.clean(everything=True)
    run(board, make_job(tmp_path / "again"))
