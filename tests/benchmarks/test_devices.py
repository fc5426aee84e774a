"""The contract of every device, and what becomes of a runtime that misbehaves.

The bad runtimes here are real files in a real job folder: nothing is replaced in the runner or in the device.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks import runner
from benchmarks.devices import Device
from benchmarks.devices._cpu_quota import make_quota
from benchmarks.devices._runner_output import RunnerOutput
from benchmarks.devices.local import Local, share_processes
from benchmarks.job import PROGRAMS
from compress import plugins
from compress.errors import CompressError, RuntimeCrashed, Unreachable

pytestmark = pytest.mark.slow

RUNTIME = """
import os, signal, subprocess, sys, time
import numpy as np

class Bad:
    @staticmethod
    def prepare():
        import numpy


    def __init__(self, path, *, threads, batch_size):
        self.path = path

    def __call__(self, images):
        {call}
        return images.mean(axis=(2, 3))

    def effective(self):
        return {{"omp": os.environ.get("OMP_NUM_THREADS"), "where": np.__file__}}
"""


def make_job(folder: Path, call: str, *, task: str = "evaluate") -> Path:
    """Write a job folder whose runtime does `call` whenever it is run."""
    (folder / "runtimes").mkdir()
    (folder / "runtimes" / "bad.py").write_text(RUNTIME.format(call=call))
    for program in PROGRAMS:
        shutil.copyfile(Path(runner.__file__).with_name(program), folder / program)
    np.save(folder / "images.npy", np.ones((5, 3, 4, 4), np.float32))
    subject = {"name": "culprit", "runtime": "bad", "class": "Bad", "file": "files/0/model", "images": "images.npy"}
    job = {"task": task, "threads": 1, "batch_size": 2, "seed": 0, "rounds": 5, "seconds": 0.1, "subjects": [subject]}
    (folder / "job.json").write_text(json.dumps(job))
    return folder


def runs(program: str) -> bool:
    """Return whether a Python answers; a version manager may put a name on the path that stands for none."""
    return subprocess.run([program, "-c", "pass"], capture_output=True, check=False).returncode == 0


def ignore(done: int, total: int, doing: str) -> None:
    """Take no notice of progress."""


@pytest.mark.parametrize("name", plugins.list_names("devices"))
def test_every_device_keeps_the_contract(name: str) -> None:
    """A device is called by its name and takes exactly what the contract says."""
    device = plugins.load("devices", name)
    assert isinstance(device.name, str)
    assert inspect.signature(device.run).parameters.keys() == inspect.signature(Device.run).parameters.keys()


def test_the_job_folder_is_all_that_a_job_needs(tmp_path: Path) -> None:
    """A folder with runner, runtime and images is complete, and its results lie in it, whole."""
    job, seen = make_job(tmp_path, "pass"), []
    Local().run(job, timeout_seconds=60, progress=lambda *step: seen.append(step))
    result = json.loads((job / "result.json").read_text())
    assert np.load(job / "logits.npy").tolist() == [[1.0] * 3] * 5
    assert result["effective"]["omp"] == "1"
    assert seen == [(2, 5, "culprit"), (4, 5, "culprit"), (5, 5, "culprit")]
    assert not list(job.glob(".*"))


def test_nothing_in_the_working_folder_shadows_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file numpy.py where the user stands, or beside the runner, is not what the runner imports."""
    job = make_job(tmp_path, "pass")
    (job / "numpy.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(job)
    Local().run(job, timeout_seconds=60, progress=ignore)
    assert json.loads((job / "result.json").read_text())["effective"]["where"] == np.__file__


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        pytest.param("raise ValueError('no such\\n operator')", CompressError, r"\Aculprit: no such operator\Z", id="raises"),
        pytest.param(
            "import nonesuch", Unreachable, "culprit needs the package 'nonesuch', which is not installed", id="package"
        ),
        pytest.param("raise MemoryError", Unreachable, "culprit: memory ran out", id="memory"),
        pytest.param("os.abort()", RuntimeCrashed, r"crashed the process \(SIGABRT\)", id="aborts"),
        pytest.param("os.kill(os.getpid(), signal.SIGSEGV)", RuntimeCrashed, r"crashed the process \(SIGSEGV\)", id="segfault"),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", Unreachable, "most likely because memory ran out", id="killed"),
        pytest.param("os.kill(os.getpid(), signal.SIGILL)", Unreachable, "processor lacks instructions", id="instructions"),
        pytest.param("print('boo', file=sys.stderr); os._exit(3)", Unreachable, "ended with status 3: .*boo", id="exits"),
    ],
)
@pytest.mark.parametrize(("task", "shared"), [("evaluate", False), ("evaluate", True), ("measure", False)])
def test_a_runtime_that_fails_gives_one_clear_message(
    task: str, shared: bool, call: str, kind: type[CompressError], message: str, tmp_path: Path
) -> None:
    """Whatever a runtime does to its process, the caller learns what happened and finds no result."""
    job = make_job(tmp_path, call, task=task)
    with share_processes() if shared else nullcontext(), pytest.raises(CompressError, match=message) as caught:
        Local().run(job, timeout_seconds=60, progress=ignore)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert not (job / "result.json").exists()


def test_a_python_without_numpy_is_told_from_a_broken_runner(tmp_path: Path) -> None:
    """A board whose Python has no numpy gives the message of a missing package, not the end of a traceback."""
    job, output = make_job(tmp_path, "pass"), RunnerOutput()
    bare = [sys.executable, "-S", "-E", str(job / "runner.py"), str(job)]
    done = subprocess.run(bare, capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        output.read_line(line, ignore)
    error = output.make_error(done.returncode, None)
    assert isinstance(error, Unreachable)
    assert str(error).startswith("the job needs the package 'numpy', which is not installed: pip install")


def test_a_crash_names_the_subject_that_was_running(tmp_path: Path) -> None:
    """A dead process says nothing itself; its last progress line tells whose call it was."""
    job = make_job(tmp_path, "os.abort()", task="measure")
    with pytest.raises(RuntimeCrashed, match=r"\Aculprit: "):
        Local().run(job, timeout_seconds=60, progress=ignore)


LONG_SECONDS = 60
"""What takes a moment takes less than that on the busiest machine."""


def is_running(process: int) -> bool:
    """Return whether a process exists and is no zombie, a moment after it was killed."""
    deadline = time.monotonic() + LONG_SECONDS
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{process}/status").read_text():
                return False
        except OSError:
            return False
        time.sleep(0.02)
    return True


WHO = "self.parent, self.imports = os.getppid(), getattr(np, 'imports', 0); np.imports = self.imports + 1"


def read_parent(job: Path) -> tuple[int, int]:
    """Return the parent of the process that ran a job, and how often its process had run one before."""
    found = json.loads((job / "result.json").read_text())["effective"]
    return found["parent"], found["imports"]


def make_jobs(folder: Path, count: int, call: str = WHO) -> list[Path]:
    """Write jobs of one runtime, each of which tells what process ran it."""
    jobs = []
    for number in range(count):
        place = folder / str(number)
        place.mkdir()
        job = make_job(place, call)
        runtime = job / "runtimes" / "bad.py"
        told = '"parent": getattr(self, "parent", 0), "imports": getattr(self, "imports", 0), "omp"'
        runtime.write_text(runtime.read_text().replace('"omp"', told))
        jobs.append(job)
    return jobs


def test_files_that_share_a_runner_are_forks_of_one_process(tmp_path: Path) -> None:
    """Within the context jobs have one parent, which imported the runtime, and none sees what another left in memory."""
    jobs = make_jobs(tmp_path, 3)
    with share_processes():
        for job in jobs:
            Local().run(job, timeout_seconds=60, progress=ignore)
    parents = {read_parent(job)[0] for job in jobs}
    assert len(parents) == 1
    assert os.getpid() not in parents
    assert not is_running(parents.pop())
    assert [np.load(job / "logits.npy").tolist() for job in jobs] == [[[1.0] * 3] * 5] * 3


def test_after_a_crash_the_next_job_is_carried_out(tmp_path: Path) -> None:
    """A runtime that kills its process ends its own job, and no other of those that share its runner."""
    (tmp_path / "bad").mkdir()
    crash, (good,) = make_job(tmp_path / "bad", "os.abort()"), make_jobs(tmp_path, 1)
    with share_processes():
        with pytest.raises(RuntimeCrashed, match="SIGABRT"):
            Local().run(crash, timeout_seconds=60, progress=ignore)
        Local().run(good, timeout_seconds=60, progress=ignore)
    assert (good / "result.json").exists()


@pytest.mark.parametrize("dies", [True, False], ids=["killed", "takes no more jobs"])
def test_a_runner_that_dies_while_it_waits_costs_no_job(tmp_path: Path, *, dies: bool) -> None:
    """The next job had not begun, so another runner carries it out, also where a broken pipe is all that tells of the death."""
    first, second = make_jobs(tmp_path, 2)
    if not dies:
        program = first / "runner.py"
        says = 'print(json.dumps({"ended": ended}), file=sys.stderr, flush=True)'
        assert says in program.read_text()
        program.write_text(program.read_text().replace(says, f"os.close(0); {says}; time.sleep(600)"))
    with share_processes():
        Local().run(first, timeout_seconds=60, progress=ignore)
        if dies:
            os.kill(read_parent(first)[0], signal.SIGKILL)
            assert not is_running(read_parent(first)[0])
        Local().run(second, timeout_seconds=60, progress=ignore)
    parents = [read_parent(job)[0] for job in (first, second)]
    assert parents[0] != parents[1]
    assert not any(map(is_running, parents))


def test_after_a_timeout_another_runner_is_started(tmp_path: Path) -> None:
    """A job that hangs is killed with its runner; the next job gets a new one."""
    (tmp_path / "bad").mkdir()
    hanging, (good,) = make_job(tmp_path / "bad", "time.sleep(600)"), make_jobs(tmp_path, 1)
    with share_processes():
        with pytest.raises(Unreachable, match="not done after 2 s, so it was stopped"):
            Local().run(hanging, timeout_seconds=2, progress=ignore)
        Local().run(good, timeout_seconds=60, progress=ignore)
    assert (good / "result.json").exists()


def test_a_runner_dies_with_the_program_that_started_it(tmp_path: Path) -> None:
    """Nobody who is killed leaves a runner behind: it ends when nothing more can come."""
    (job,) = make_jobs(tmp_path, 1)
    program = (
        "import os, signal, sys; from pathlib import Path; from benchmarks.devices.local import Local, share_processes\n"
        "with share_processes():\n"
        "    Local().run(Path(sys.argv[1]), timeout_seconds=60, progress=lambda *_: None)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(job)], check=False)
    assert not is_running(read_parent(job)[0])


SLEEPER = "open(self.path + '.child', 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"


@pytest.fixture
def sleeping_job(tmp_path: Path) -> Path:
    """A job whose runtime starts a child process and then hangs, with the child's number in files/0/model.child."""
    job = make_job(tmp_path, SLEEPER)
    (job / "files" / "0").mkdir(parents=True)
    return job


def started(job: Path) -> str:
    """Return the number of the process that the hanging runtime started, or nothing while it has not."""
    path = job / "files" / "0" / "model.child"
    return path.read_text() if path.exists() else ""


def child_of(job: Path) -> int:
    """Return the number of the process that the hanging runtime started, once it has."""
    deadline = time.monotonic() + LONG_SECONDS
    while not started(job):
        assert time.monotonic() < deadline, "the runtime did not start"
        time.sleep(0.02)
    return int(started(job))


def test_a_timeout_kills_the_runner_and_its_children(sleeping_job: Path) -> None:
    """What hangs is stopped after the given time, together with whatever it started."""
    for seconds in (2, 8, LONG_SECONDS):  # a busy machine may need more until the runtime hangs
        with pytest.raises(Unreachable, match=f"not done after {seconds} s, so it was stopped"):
            Local().run(sleeping_job, timeout_seconds=seconds, progress=ignore)
        if started(sleeping_job):
            break
    assert not is_running(child_of(sleeping_job))


def test_any_allowed_time_is_one_that_a_timer_takes(tmp_path: Path) -> None:
    """Time without end, as an absurd `--seconds` allows, is no error of the clock."""
    job = make_job(tmp_path, "pass")
    Local().run(job, timeout_seconds=1e300, progress=ignore)
    assert (job / "result.json").exists()


CALLER = """
import sys
from pathlib import Path
from benchmarks.devices.local import Local
try:
    Local().run(Path(sys.argv[1]), timeout_seconds=600, progress=lambda *_: None)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_kills_the_runner_and_its_children(sleeping_job: Path, root: Path) -> None:
    """Ctrl-C in the caller leaves no process behind."""
    with subprocess.Popen([sys.executable, "-c", CALLER, str(sleeping_job)], cwd=root, stdout=subprocess.PIPE) as caller:
        child = child_of(sleeping_job)
        caller.send_signal(signal.SIGINT)
        said, _ = caller.communicate(timeout=LONG_SECONDS)
    assert said == b"interrupted\n"
    assert not is_running(child)


OLDEST = next((found for found in map(shutil.which, ("python3.9", "python3.10")) if found and runs(found)), None)


@pytest.mark.skipif(OLDEST is None, reason="there is no Python 3.9 or 3.10 on the path")
def test_an_old_python_carries_the_job_out(tmp_path: Path) -> None:
    """The oldest Python that boards have runs the programs as they are, as far as numpy, which it says it lacks or uses."""
    job, output = make_job(tmp_path, "pass"), RunnerOutput()
    done = subprocess.run([str(OLDEST), str(job / "runner.py"), str(job)], capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():
        output.read_line(line, ignore)
    if done.returncode == 0:
        assert json.loads((job / "result.json").read_text())["machine"]["python"].startswith("3.")
    else:
        assert str(output.make_error(done.returncode, None)).startswith("the job needs the package 'numpy'")


def test_a_part_of_this_machine_is_used_and_named(tmp_path: Path) -> None:
    """The runner and all that it starts keep to the cores that were named, and the device says which these are."""
    (first, *_) = sorted(os.sched_getaffinity(0))
    device, job = Local(cpus=str(first)), make_job(tmp_path, "pass", task="measure")
    device.run(job, timeout_seconds=60, progress=ignore)
    assert device.name == f"local (cpus {first})"
    assert json.loads((job / "result.json").read_text())["machine"]["facts"]["affinity"] == str(first)
    assert Local().name == "local"
    with pytest.raises(CompressError, match="the job: cpus 9999: are not cores"):
        Local(cpus="9999").run(job, timeout_seconds=60, progress=ignore)
    with pytest.raises(CompressError, match="cpu_quota 0 is no number of cores"):
        Local(cpu_quota=0)


def test_a_quota_that_this_user_may_not_set_is_refused_with_the_reason(tmp_path: Path) -> None:
    """Where no control group can be made, nothing is run without the limit."""
    (tmp_path / "file").touch()
    with (
        pytest.raises(Unreachable, match=r"cpu_quota 0\.5: no control group can be made below"),
        make_quota(0.5, tmp_path / "file"),
    ):
        pytest.fail("it was made")


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", os.W_OK), reason="no control group may be made here")
def test_a_quota_holds(tmp_path: Path) -> None:
    """A runner with a tenth of a core gets no more, as the kernel's own count of its group's time says."""
    job = make_job(tmp_path, "sum(range(10**5))", task="measure")
    begun = time.monotonic()
    Local(cpu_quota=0.1).run(job, timeout_seconds=120, progress=ignore)
    result = json.loads((job / "result.json").read_text())
    took = sum(
        cpu * len(calls)
        for one in result["subjects"].values()
        for cpu, calls in zip(one["cpu_ns"], one["rounds_ns"], strict=True)
    )
    assert took / 1e9 < 0.3 * (time.monotonic() - begun)
    assert result["machine"]["facts"]["cgroup_cpu_quota"] == "0.1 cores"
    assert not list(Path("/sys/fs/cgroup/cpu").glob("edge-compress-*"))
