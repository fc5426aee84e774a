"""The one program that evaluates and times model files on their runtimes: `python runner.py JOB`.

It is self-contained (Python 3.9, numpy and the runtime under test; nothing of ours), so the folder JOB can be pushed to any
board and gives comparable numbers there. `benchmarks/protocol.py` writes the folder and reads the results.

In JOB:
    job.json            task, threads, batch_size (null: any), seed, rounds, seconds, launches: processes that share rounds,
                        calls_per_second (null: without a pause), cpus and cgroup: to which it keeps itself, calls:
                        [[first image, images]], subjects:
                        [{name, runtime, class, file, images: its inputs/K.npy, scale and shift [C] where images are made of
                        pixels there, gives_class where the file also gives class and score, feeds where it is another tool's:
                        {name of an input: its inputs/K.npy}}]
    inputs/K.npy        arrays that subjects are fed: images, float32 [N, C, H, W], normalised; pixels, uint8 [N, H, W, C], for
                        subjects that carry the preprocessing, or with `scale` and `shift` for all others; or an input of a
                        file of another tool, [variants, ...]
    machine.py timer.py the other programs: what the machine is and does, and what times;
    meter.py sensors.py what measures energy, and what that is read from; only the task `energy` needs them
    runtimes/NAME.py    the runtimes that the subjects name, loaded by path
    files/I/...         the files of subject number I
Out, written whole or not at all:
    result.json         raw series in nanoseconds, what really ran, the machine, and its state before and after
    logits.npy          task `evaluate`: float32 [N, classes]
    class.npy score.npy and, where the subject has `gives_class`, these outputs as far as the file has them, in its own types
On stderr, one JSON document per line: {"done", "total", "doing"} as it goes, and a last {"error", ...} beside a non-zero
exit status when something raises. Other lines there come from the runtimes.

`python runner.py --serve` carries out many jobs of task `evaluate`: it reads their folders from stdin, a line each, and forks
for each, so that runtimes are imported once and yet every file has a process of its own. After each job it says {"ended":
STATUS}.

Task `evaluate` feeds all images to one subject, or makes the given calls. The tasks that time, `measure` and `sustain`, are
those of `timer.py`, and `energy` is that of `meter.py`; for each of its launches `measure` starts this program anew, as
`python runner.py --launch NUMBER JOB`.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

BATCHES, BATCHES_BYTES = 16, 64 << 20
"""So many different batches at most are fed in turn while timing; one alone would sit in the cache and flatter."""
OUTPUTS = {"logits", "class", "score"}


def main(folder: Path, memory: dict[str, int | None] | None = None) -> None:
    """Carry out the job in a folder.

    Args:
        folder: The job.
        memory: What a fork knows better than it can read: memory before the runtime was imported, and whether its peak counts.

    Raises:
        ModuleNotFoundError: numpy is not installed, or a runtime.
        ValueError: More threads are asked for than this process may use.
    """
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    limit_process(job)
    import numpy  # noqa: F401 (it is missing before anything else is)

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if job["threads"] > available:
        raise ValueError(f"{job['threads']} threads are asked for, and this process may use {available}; ask for fewer")
    machine = load_beside("machine")
    before = machine.read_state()
    if job["task"] == "evaluate":
        result = evaluate(job, folder)
    elif job["task"] == "profile":
        result = profile(job, folder)
    elif job["task"] == "energy":
        result = load_beside("meter").measure_energy(job, folder, sys.modules[__name__])
    else:
        timer = load_beside("timer")
        result = {"measure": timer.measure, "sustain": timer.sustain}[job["task"]](job, folder, sys.modules[__name__])
    result.update(memory or {}, before=before, after=machine.read_state(), machine=machine.read_machine())
    write(folder / "result.json", json.dumps(result).encode())


def launch(number: int, folder: Path) -> None:
    """Carry out one launch of a job that times, and leave its series for the process that started this one."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    limit_process(job)
    part = load_beside("timer").time_launch(job, folder, sys.modules[__name__], number)
    write(folder / f"launch-{number}.json", json.dumps(part).encode())


def limit_process(job: dict[str, Any]) -> None:
    """Keep this process to the cores and the control group that a job names, before anything starts threads.

    Raises:
        ValueError: There are no such cores.
        OSError: The group takes no process.
    """
    if job.get("cgroup"):
        (Path(job["cgroup"]) / "cgroup.procs").write_text(str(os.getpid()))
    if job.get("cpus") not in (None, "all"):
        os.sched_setaffinity(0, load_beside("machine").find_cpus(job["cpus"]))


def serve() -> None:
    """Carry out the jobs whose folders are read from stdin, each in a fork that finds its runtime imported."""
    import numpy  # noqa: F401 (it belongs to the baseline)

    baseline = load_beside("machine").read_memory_bytes("VmRSS")
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        for subject in job["subjects"]:
            with tag_errors(subject["name"]):
                load_runtime(subject, folder)
        gc.freeze()  # else each collection in a fork copies what both share
        pages = find_mapped_pages()
        process = os.fork()
        if process == 0:
            touch(pages or [])
            memory = {"baseline_memory_bytes": baseline, **({} if pages else {"peak_memory_bytes": None})}
            run_and_exit(folder, memory)
        _, status = os.waitpid(process, 0)
        ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(json.dumps({"ended": ended}), file=sys.stderr, flush=True)


def find_mapped_pages() -> list[int] | None:
    """Return the addresses of all pages of files, such as libraries, that are in this process's memory.

    A fork starts without them, so its memory would be less than that of a process that imported the runtime itself. Where they
    cannot be read, the answer is None, and the peak memory of a fork says nothing.
    """
    if not os.access("/proc/self/pagemap", os.R_OK):
        return None
    import numpy as np

    size, found = os.sysconf("SC_PAGE_SIZE"), []
    with Path("/proc/self/maps").open(encoding="utf-8") as maps, Path("/proc/self/pagemap").open("rb", buffering=0) as entries:
        for line in maps:
            span, rights, _, _, inode, *_ = line.split()
            if inode == "0" or not rights.startswith("r"):
                continue
            first, last = (int(address, 16) // size for address in span.split("-"))
            entries.seek(8 * first)
            present = np.frombuffer(entries.read(8 * (last - first)), np.uint64) >> np.uint64(63)
            found += [(first + int(offset)) * size for offset in np.flatnonzero(present)]
    return found


def touch(pages: list[int]) -> None:
    """Read a byte of each page."""
    for address in pages:
        ctypes.string_at(address, 1)


def run_and_exit(folder: Path, memory: dict[str, int | None]) -> NoReturn:
    """Carry out one job in a fork, and end it whatever happens: nothing may return into the loop of its parent."""
    status = 1
    try:
        main(folder, memory)
        status = 0
    except BaseException:  # noqa: BLE001 (as Python itself does at the end of a program)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)


def evaluate(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Feed every image to one subject and save its logits [N, classes], and class and score, each [N], where it gives them.

    One batch of images is in memory at a time, so that the peak is the network's. It is the process's whole resident memory,
    because that is what a board must have; the baseline is Python with numpy, before the runtime is imported.
    """
    import numpy as np

    size, subject = job["batch_size"], job["subjects"][0]
    source = folder / subject["images"]
    count = len(np.load(source, mmap_mode="r"))
    baseline = load_beside("machine").read_memory_bytes("VmRSS")
    batches: dict[str, list[Any]] = {}
    calls, done = job.get("calls") or [(start, size) for start in range(0, count, size)], 0
    total = sum(images for _, images in calls) if job.get("calls") else count
    with tag_errors(subject["name"]):
        runtime = make_opener(job, subject, folder)()
        for start, images_in_call in calls:
            images = load_batch(source, start, images_in_call, subject)
            outputs = runtime.outputs(images) if subject.get("gives_class") else {"logits": runtime(images)}
            kept = min(images_in_call, total - done)
            for name in OUTPUTS & outputs.keys():
                batches.setdefault(name, []).append(outputs[name][:kept])
            done += kept
            report_progress(done, total, subject["name"])
    for name, parts in batches.items():
        array = np.concatenate(parts)
        save_array(folder / f"{name}.npy", array.astype(np.float32, copy=False) if name == "logits" else array)
    return {
        "effective": runtime.effective(),
        "peak_memory_bytes": load_beside("machine").read_memory_bytes("VmHWM"),
        "baseline_memory_bytes": baseline,
    }


def profile(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Call one subject `rounds` times, and tell how long each of its layers took.

    Raises:
        ValueError: The runtime does not tell.
    """
    subject = job["subjects"][0]
    (batches,) = share_inputs([subject], folder, job["batch_size"])
    report_progress(0, 1, subject["name"])
    with tag_errors(subject["name"]):
        runtime = load_runtime(subject, folder)
        if not hasattr(runtime, "profile"):
            raise ValueError(f"{subject['runtime']} does not tell the time of single layers; profile its ONNX or OpenVINO file")
        layers = runtime.profile(str(folder / subject["file"]), threads=job["threads"], batches=batches, calls=job["rounds"])
    report_progress(1, 1, "")
    return {"layers": layers}


def share_inputs(subjects: list[dict[str, Any]], folder: Path, size: int) -> list[list[Any]]:
    """Return what each subject is fed in turn; those that are fed alike share it."""
    keys = [json.dumps([subject.get(key) for key in ("images", "scale", "shift", "feeds")]) for subject in subjects]
    shared = {key: load_inputs(subject, folder, size) for key, subject in zip(keys, subjects)}  # noqa: B905 (Python 3.9)
    return [shared[key] for key in keys]


def load_inputs(subject: dict[str, Any], folder: Path, size: int) -> list[Any]:
    """Return what a subject is fed in turn: batches of images, or the inputs of a file of another tool by their names."""
    import numpy as np

    if "feeds" not in subject:
        return load_batches(subject, folder, size)
    arrays = [np.load(folder / path, allow_pickle=False) for path in subject["feeds"].values()]
    return [dict(zip(subject["feeds"], each)) for each in zip(*arrays)]  # noqa: B905 (Python 3.9)


def load_batches(subject: dict[str, Any], folder: Path, size: int) -> list[Any]:
    """Return the batches that are fed in turn while timing, each [size, C, H, W] or, of pixels, [size, H, W, C]."""
    import numpy as np

    images = np.load(folder / subject["images"], mmap_mode="r", allow_pickle=False)
    bytes_in_batch = images[0].size * size * (4 if "scale" in subject else images.itemsize)
    count = max(1, min(BATCHES, len(images), BATCHES_BYTES // bytes_in_batch))
    return [load_batch(folder / subject["images"], number * size, size, subject) for number in range(count)]


def load_batch(path: Path, start: int, size: int, subject: dict[str, Any]) -> Any:
    """Return images [size, ...] from `start` on; behind the last image the first follow, so every batch is full."""
    import numpy as np

    images = np.load(path, mmap_mode="r", allow_pickle=False)  # unmapped on return: its pages are not ours
    values = images[np.arange(start, start + size) % len(images)]
    if "scale" not in subject:
        return np.ascontiguousarray(values)
    normalised = np.ascontiguousarray(values.transpose(0, 3, 1, 2), dtype=np.float32)  # [size, C, H, W]
    normalised *= np.array(subject["scale"], np.float32)[:, None, None]
    normalised += np.array(subject["shift"], np.float32)[:, None, None]  # product and sum are each rounded, as on the host
    return normalised


def make_opener(job: dict[str, Any], subject: dict[str, Any], folder: Path) -> Callable[[], Any]:
    """Return a function that opens the subject's file; the runtime is imported before, so that no file is charged for it.

    Raises:
        ImportError: The file of the runtime cannot be imported, or its package is not installed.
    """
    runtime = load_runtime(subject, folder)
    if "feeds" in subject:
        return partial(runtime.open_foreign, str(folder / subject["file"]), threads=job["threads"])
    return partial(runtime, str(folder / subject["file"]), threads=job["threads"], batch_size=job["batch_size"])


def load_runtime(subject: dict[str, Any], folder: Path) -> Any:
    """Return the runtime of a subject, its package imported.

    Raises:
        ImportError: The file of the runtime cannot be imported, or its package is not installed.
    """
    module = load_module(f"runtime_{subject['runtime']}", folder / "runtimes" / f"{subject['runtime']}.py")
    runtime = getattr(module, subject["class"])
    runtime.prepare()
    return runtime


@contextmanager
def tag_errors(name: str) -> Iterator[None]:
    """Attach the name of the subject to whatever its runtime raises."""
    try:
        yield
    except BaseException as error:
        error.__dict__["subject"] = name
        raise


def report_error(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Write what was raised to the last line of stderr, for the caller; Python then exits with status 1."""
    sys.__excepthook__(kind, error, trace)
    document = {"error": str(error) or kind.__name__, "type": kind.__name__, "subject": error.__dict__.get("subject")}
    if isinstance(error, ModuleNotFoundError):
        document["missing"] = error.name
    print(json.dumps(document), file=sys.stderr, flush=True)


def report_progress(done: int, total: int, doing: str) -> None:
    """Write progress to stderr; `doing` names the subject, so that the caller knows whose call it was if the process dies."""
    print(json.dumps({"done": done, "total": total, "doing": doing}), file=sys.stderr, flush=True)


def save_array(path: Path, array: Any) -> None:
    """Write an array of any shape whole or not at all."""
    import numpy as np

    temporary = path.with_name("." + path.name)
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
    temporary.replace(path)


def write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name("." + path.name)
    temporary.write_bytes(content)
    temporary.replace(path)


@lru_cache(maxsize=None)  # noqa: UP033 (as Python 3.9 also has it)
def load_beside(name: str) -> Any:
    """Return another program of the job folder as a module; it is loaded by path, so that nothing installed can stand for it.

    Raises:
        ImportError: It is not there.
    """
    return load_module(f"runner_{name}", Path(__file__).with_name(f"{name}.py"))


def load_module(name: str, path: Path) -> Any:
    """Return a file as a module, which is run anew.

    Raises:
        ImportError: It cannot be imported.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.excepthook = report_error  # before numpy, so that where it is missing the caller is told
    if sys.argv[1:] == ["--serve"]:
        serve()
    elif sys.argv[1:2] == ["--launch"] and len(sys.argv) == 4:
        launch(int(sys.argv[2]), Path(sys.argv[3]))
    elif len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        sys.exit("usage: python runner.py JOB | --serve | --launch NUMBER JOB")
