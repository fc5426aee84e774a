"""Run jobs on a board through any transport: push what is missing, start, follow, re-attach, fetch, check.

Four calls make a job: `open`, `put`, `follow` and `take`. After `put` the job lives on the board without us, so a connection
that breaks is only taken up again. Nothing that a board answers is believed: names are those that a runner may write, lengths
are bounded, and results must have the checksums that the keeper wrote when the runner ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.devices._agent import Agent, AgentFailed, require
from benchmarks.devices._board_facts import MODULES, describe_board, describe_busy, format_time
from benchmarks.devices._device import BoardJob, Detached, Progress, Say
from benchmarks.devices._ledger import ID, forget_job, record_job
from benchmarks.devices._packing import Blob, list_files, send_files
from benchmarks.devices._prepare import prepare
from benchmarks.devices._process import POOLS, QUIET
from benchmarks.devices._results import check_results
from benchmarks.devices._runner_output import RunnerOutput
from benchmarks.devices._transport import Conversation, Lost, Transport, clip
from compress import plugins
from compress.errors import CompressError, Interrupted, Unreachable
from compress.text import format_bytes, format_duration

RESULT = re.compile(r"[a-z][a-z0-9_-]{0,40}\.(json|npy)")
"""Names that a runner gives its results."""
RESULT_BYTES = 2 << 30
"""The most that results may hold."""
RUNNER_PYTHON = (3, 9)
POLL_SECONDS, SELDOM_SECONDS = {"evaluate": 0.2}, 2.0
"""How often the board looks for progress; in all tasks that measure, seldom, for that costs the measurement."""
ROOM_BYTES = 8 << 20
"""Room for results and log beside what is sent."""
LITTLE_BYTES = 1 << 20
"""A disk with less free is full."""
AGAIN_SECONDS = 3.0
"""Within so long after Ctrl-C a second one stops the job on the board."""
DAMAGED_TRIES = 3


@dataclass
class Remote:
    """Jobs on one board.

    Args:
        transport: What leads there.
        address: What the user typed.
        name: How reports call the board.
        folder: Ours on the board.
        python: Of jobs; None takes what was prepared, or the system's.
        store_mib: Room for files that several jobs use.
        lost_minutes: A connection that is gone for so long is given up.
        wait: Whether to wait while another job runs there.
        say: Told what people must know.
        detach: Whether to leave a job alone once it runs.
        attach: The job to fetch instead of starting one.
        memo: What is noted on this machine with each job.
        cpus: The cores there that jobs may use, as of the device `local`.
    """

    transport: Transport
    address: str
    name: str
    folder: str = ".cache/edge-compress"
    python: str | None = None
    store_mib: int = 512
    lost_minutes: float = 10.0
    wait: bool = True
    say: Say = lambda _text: None
    detach: bool = False
    attach: str | None = None
    memo: dict[str, Any] = field(default_factory=dict)
    cpus: str = "all"

    def __post_init__(self) -> None:
        if self.cpus != "all":
            self.name = f"{self.name} (cpus {self.cpus})"

    @property
    def agent(self) -> Agent:
        """Return the agent on the board."""
        return Agent(self.transport, self.folder)

    def run(self, job: Path, *, timeout_seconds: float, progress: Progress) -> None:
        """Run a job folder.

        Raises:
            CompressError: The runner reported what is wrong with the job.
            Unreachable: The board was not reached, lacks something, or the job was lost; the message says which.
            Detached: The job was started and left alone.
            Interrupted: The user stopped following it.
        """
        with self.transport.hold(), self.tag_errors():
            facts = self._limit(job)
            files = list_files(job)
            shown = _Shown(progress)
            attached, self.attach = self.attach, None
            known = attached or self._start(job, facts, files, timeout_seconds, shown)
            if attached:
                self._check_attached(attached, files)
            elif self.detach:
                raise Detached(known, self.name)
            try:
                output, end = self._follow(known, POLL_SECONDS.get(facts["task"], SELDOM_SECONDS), shown)
            except KeyboardInterrupt:
                raise self._interrupt(known) from None
            self._take(known, end, job, files, shown)
            forget_job(known)
            self._refuse_failed(output, end, timeout_seconds)
            check_results(job, facts)

    def _limit(self, job: Path) -> dict[str, Any]:
        """Write into a job to which cores it keeps itself there; return its facts."""
        facts: dict[str, Any] = json.loads((job / "job.json").read_text(encoding="utf-8"))
        if self.cpus != "all":
            facts["cpus"] = self.cpus
            (job / "job.json").write_text(json.dumps(facts), encoding="utf-8")
        return facts

    def tag_errors(self) -> _Tagged:
        """Return a context that puts the board's name before what is raised."""
        return _Tagged(self.name)

    def _start(
        self, job: Path, facts: dict[str, Any], files: Mapping[str, Blob], seconds: float, shown: _Shown
    ) -> str:  # fmt: skip
        """Push what is missing and start the job; return its number."""
        answer = self.agent.ask("open", {"files": files, "python": self.python, "modules": list_modules(facts)})
        self._refuse_unfit(answer, facts, files)
        known = secrets.token_hex(6)
        record_job(known, self.address, self.memo)
        request = {
            "job": known, "files": files, "host": f"{platform.node()}:{os.getpid()}", "digest": hash_files(files),
            "python": self.python, "seconds": seconds, "store_bytes": self.store_mib << 20,
            "environment": {**QUIET, "set": dict.fromkeys(POOLS, facts["threads"])},
        }  # fmt: skip
        try:
            self._put(job, files, cast("list[str]", require(answer, "missing", list)), request, shown)
        except BaseException:
            forget_job(known)
            raise
        return known

    def _put(self, job: Path, files: Mapping[str, Blob], missing: list[str], request: dict[str, Any], shown: _Shown) -> None:
        """Send what is missing until the job has started."""
        tries, gone = 0, _Gone(self.lost_minutes, self.say)
        while True:
            sent = [sha for sha in missing if sha in {blob.sha256 for blob in files.values()}]
            try:
                answer = self.agent.ask("put", request, partial(send_files, job, files, sent))
            except (Lost, AgentFailed) as error:
                tries += 1
                damaged = isinstance(error, AgentFailed) and error.kind in {"ReadError", "ValueError", "EOFError"}
                if tries >= DAMAGED_TRIES or not (damaged or isinstance(error, Lost)):
                    raise
                gone.wait(error, shown)
                missing = require(self.agent.ask("open", {"files": files}), "missing", list)
                continue
            if answer.get("started") is True:
                return
            if "busy" in answer:
                self._wait_for(answer["busy"], shown)
                missing = []
            else:
                tries += 1
                missing = require(answer, "missing", list)
                if tries >= DAMAGED_TRIES:
                    raise Unreachable(f"files arrive damaged there, {tries} times; look at its disk and its network")

    def _wait_for(self, busy: Any, shown: _Shown) -> None:
        """Wait a while for the job that runs there.

        Raises:
            Unreachable: Nobody wants to wait.
        """
        text = describe_busy(busy)
        if not self.wait:
            raise Unreachable(f"{text}; wait for it, or see compress device jobs {self.address}")
        shown.note(f"waits: {text}")
        time.sleep(SELDOM_SECONDS)

    def _follow(self, known: str, pause: float, shown: _Shown) -> tuple[RunnerOutput, dict[str, Any]]:
        """Follow a job to its end, over any number of connections."""
        output, offset, gone = RunnerOutput(), 0, _Gone(self.lost_minutes, self.say)
        while True:
            try:
                for line in self._read_lines(known, offset, pause):
                    if "end" in line:
                        return output, require(line, "end", dict)
                    gone.clear()
                    offset = max(offset, require(line, "next", int))
                    for text in str(require(line, "log", str)).splitlines():
                        output.read_line(text, shown)
            except Lost as error:
                gone.wait(error, shown, f"the job {known} goes on there; {self._name_remedy(known)}")

    def _read_lines(self, known: str, offset: int, pause: float) -> Iterator[dict[str, Any]]:
        """Yield what a follower says; it never ends but with an end."""
        with self.agent.talk("follow", {"job": known, "offset": offset, "pause": pause}) as (talk, first):
            line: dict[str, Any] | None = first
            while line is not None:
                yield line
                line = talk.read_document()
        raise Lost("the connection ended")

    def _take(self, known: str, end: dict[str, Any], job: Path, files: Mapping[str, Blob], shown: _Shown) -> None:
        """Fetch the results of a job, check them, and have the job removed there."""
        promised, gone = self._read_promise(known, end, files), _Gone(self.lost_minutes, self.say)
        while True:
            try:
                self._take_once(known, promised, job)
            except Lost as error:
                gone.wait(error, shown, f"the job {known} lies there; {self._name_remedy(known)}")
            else:
                return

    def _take_once(self, known: str, promised: Mapping[str, Blob], job: Path) -> None:
        with self.agent.talk("take", {"job": known}) as (talk, answer):
            if require(answer, "results", dict).keys() != promised.keys():
                raise Unreachable(_refuse_results(known, "others than the keeper named"))
            if require(answer, "damaged", list):
                raise Unreachable(_refuse_results(known, "results of another length than when its runner ended"))
            parts = [_receive(talk, job / name, blob, known) for name, blob in promised.items()]
            for part, name in zip(parts, promised, strict=True):
                part.replace(job / name)
            talk.write(b"arrived\n")

    def _read_promise(self, known: str, end: dict[str, Any], files: Mapping[str, Blob]) -> dict[str, Blob]:
        """Return the results that the keeper named, if a runner may have written them."""
        found: dict[str, Blob] = {}
        for name, about in (end.get("results") or {}).items():
            fits = isinstance(about, list) and len(about) == 2 and isinstance(about[0], str) and type(about[1]) is int
            if not fits or not RESULT.fullmatch(name) or name in files or not 0 <= about[1] <= RESULT_BYTES:
                raise Unreachable(_refuse_results(known, f"{clip(name, 60)}, which no runner writes"))
            found[name] = Blob(*about)
        return found

    def _refuse_failed(self, output: RunnerOutput, end: dict[str, Any], seconds: float) -> None:
        """Raise what ended a job that did not end well.

        Raises:
            CompressError: The runner reported what is wrong with the job.
            Unreachable: It died or vanished.
        """
        if "vanished" in end:
            how = (
                "the board restarted in the middle"
                if end["vanished"] == "rebooted"
                else "somebody killed the job's keeper there"
            )
            raise Unreachable(f"{output.subject}: {how}; start it again")
        if "failed" in end:
            raise Unreachable(
                f"the runner could not be started ({clip(end['failed'])}); compress device prepare {self.address}"
            )
        code, free = require(end, "code", int), end.get("free_bytes")
        if code == 0:
            return
        if not -64 <= code <= 255:
            raise Unreachable(f"{output.subject}: ended with status {code}, which no process does; look at the board by hand")
        if output.is_full() or (isinstance(free, int) and free < LITTLE_BYTES):
            raise Unreachable(f"{output.subject}: the disk there became full; free space: compress device clean {self.address}")
        if output.error is not None and "missing" in output.error:
            raise Unreachable(self._explain_missing(str(output.error["missing"])))
        if output.error is not None:
            output.error["error"] = clip(output.error["error"], 2000)
        raise output.make_error(code, seconds if end.get("late") is True else None)

    def _refuse_unfit(self, answer: dict[str, Any], facts: dict[str, Any], files: Mapping[str, Blob]) -> None:
        """Refuse a board that lacks something, before anything is sent."""
        runner = require(answer, "runner", dict)
        if "failed" in runner:
            raise Unreachable(
                f"{clip(runner.get('python'))} cannot be run there ({clip(runner['failed'])}); name another with the option "
                f"python, or: compress device prepare {self.address}"
            )
        version = tuple(require(runner, "version", list)[:2])
        if not all(isinstance(part, int) for part in version) or version < RUNNER_PYTHON:
            raise Unreachable(
                f"has Python {'.'.join(map(str, version))}, and jobs need {'.'.join(map(str, RUNNER_PYTHON))}; name a newer "
                "one with the option python"
            )
        missing = [name for name, there in require(runner, "modules", dict).items() if there is not True]
        if missing:
            raise Unreachable(self._explain_missing(missing[0]))
        sizes = {blob.sha256: blob.size_bytes for blob in files.values()}
        needed = sum(sizes.get(str(sha), 0) for sha in require(answer, "missing", list)) + ROOM_BYTES
        if needed > require(answer, "free_bytes", int):
            raise Unreachable(
                f"{format_bytes(needed)} are needed in {self.folder} and {format_bytes(answer['free_bytes'])} are free; free "
                f"space: compress device clean {self.address}"
            )
        heaviest, memory = (
            max(measure_models(facts, files), default=("", 0), key=lambda each: each[1]),
            answer.get("memory_bytes"),
        )
        if isinstance(memory, int) and heaviest[1] > memory:
            raise Unreachable(
                f"{heaviest[0]}: has {format_bytes(heaviest[1])}, and {format_bytes(memory)} of memory are free there; take a "
                "smaller file"
            )

    def _explain_missing(self, module: str) -> str:
        return f"has no package {clip(module, 60)!r}, which the job needs: compress device prepare {self.address}"

    def _check_attached(self, known: str, files: Mapping[str, Blob]) -> None:
        found = next((job for job in self._read_jobs() if job.get("id") == known), None)
        if found is None:
            forget_job(known)
            raise Unreachable(f"there is no job {known} any more; it was fetched or removed; start it again")
        if found.get("digest") != hash_files(files):
            raise CompressError(
                f"job {known}: was started with other files or settings than those here now; put them back, or remove it with "
                f"compress device clean {self.address}"
            )

    def _interrupt(self, known: str) -> Interrupted:
        """Return what to raise after Ctrl-C: the job goes on, or is stopped by a second one."""
        self.say(f"the job {known} goes on on {self.name}; Ctrl-C again within {AGAIN_SECONDS:g} s stops it there")
        try:
            time.sleep(AGAIN_SECONDS)
        except KeyboardInterrupt:
            with suppress(AgentFailed):  # it ended meanwhile
                self.agent.ask("stop", {"job": known})
            forget_job(known)
            return Interrupted(f"the job {known} was stopped there, and nothing of it is kept")
        return Interrupted(f"the job {known} goes on there; {self._name_remedy(known)}")

    def _name_remedy(self, known: str) -> str:
        return f"fetch it with compress bench --attach {known}" if self.memo else "start it again once the board is there"

    def _read_jobs(self) -> list[dict[str, Any]]:
        jobs = require(self.agent.ask("list", {}), "jobs", list)
        return [job for job in jobs[:1000] if isinstance(job, dict)]

    def list_jobs(self) -> list[BoardJob]:
        """Return what still runs or lies there.

        Raises:
            Unreachable: The board cannot be reached.
        """
        with self.transport.hold(), self.tag_errors():
            return [
                BoardJob(
                    id=clip(job.get("id"), 80), state=clip(job.get("state"), 80), host=clip(job.get("host"), 80),
                    since=format_time(job.get("since")), size_bytes=require(job, "bytes", int),
                )
                for job in self._read_jobs()
            ]  # fmt: skip

    def stop_job(self, known: str) -> None:
        """End a job there, whoever started it, and remove it.

        Raises:
            CompressError: There is no such job.
            Unreachable: The board cannot be reached.
        """
        with self.transport.hold(), self.tag_errors():
            there = [clip(job.get("id"), 80) for job in self._read_jobs()]
            if ID.fullmatch(known) is None or known not in there:
                raise CompressError(f"there is no job {known}; there are: {', '.join(there) or 'none'}")
            self.agent.ask("stop", {"job": known})
            forget_job(known)

    def prepare(self, say: Say) -> None:
        """Make what jobs need there, and prove it; what is there already is left as it is.

        Raises:
            Unreachable: The board cannot be reached, or what it needs does not exist for it.
        """
        with self.transport.hold(), self.tag_errors():
            prepare(self, say)

    def describe(self) -> dict[str, str]:
        """Return what is known of the board, by what people call it.

        Raises:
            Unreachable: The board cannot be reached.
        """
        with self.transport.hold(), self.tag_errors():
            return describe_board(self.agent.ask("open", {"python": self.python, "modules": list(MODULES)}), self.address)

    def clean(self, *, everything: bool) -> list[str]:
        """Remove jobs and files that were sent there, or all that is ours; return what was removed.

        Raises:
            Unreachable: The board cannot be reached, or a job runs there.
        """
        with self.transport.hold(), self.tag_errors():
            answer = self.agent.ask("clean", {"everything": everything})
            if "busy" in answer:
                raise Unreachable(f"{describe_busy(answer['busy'])}; nothing was removed; wait for it, or fetch and stop it")
            return [f"{self.folder}/{clip(name, 80)}" for name in require(answer, "removed", list)]


class _Tagged:
    """Puts a board's name before the message of what is raised."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, CompressError) and not str(error).startswith(f"{self._name}: "):
            error.args = (f"{self._name}: {error}",)


class _Shown:
    """Progress as far as it is known, with notes between that leave it where it is."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self._total = progress, 0, 1

    def __call__(self, done: int, total: int, doing: str) -> None:
        """Show how far the job is."""
        if 0 <= done <= total:
            self._done, self._total = done, total
            self._progress(done, total, clip(doing, 80))

    def note(self, text: str) -> None:
        """Show what holds it up."""
        self._progress(self._done, self._total, text)


class _Gone:
    """Since when there is no connection, and how long that is borne."""

    def __init__(self, minutes: float, say: Say) -> None:
        self._allowed, self._pause, self._say = 60 * minutes, 0.5, say
        self._since: float | None = None

    def clear(self) -> None:
        """Note that there is one."""
        self._since, self._pause = None, 0.5

    def wait(self, error: Unreachable, shown: _Shown, remedy: str = "try again") -> None:
        """Wait a while before the next try.

        Raises:
            Unreachable: There was none for too long.
        """
        now = time.monotonic()
        if self._since is None:
            self._say(f"the connection is lost ({error}); tries again for {format_duration(self._allowed)}")
            self._since = now
        if now - self._since >= self._allowed:
            raise Unreachable(f"{error}; no connection for {format_duration(self._allowed)}; {remedy}") from error
        shown.note(f"lost, reconnecting ({now - self._since:.0f} s)")
        time.sleep(self._pause)
        self._pause = min(2 * self._pause, 8.0)


def _receive(talk: Conversation, path: Path, blob: Blob, known: str) -> Path:
    """Write one result under a hidden name, if it is whole and has its checksum; return that.

    Raises:
        Lost: The connection broke before it was whole.
        Unreachable: It has another checksum.
    """
    found, length, part = hashlib.sha256(), 0, path.with_name(f".{path.name}")
    with part.open("wb") as file:
        for content in talk.read_bytes(blob.size_bytes):
            found.update(content)
            length += len(content)
            file.write(content)
    if length < blob.size_bytes:
        part.unlink()
        raise Lost(f"was cut off in {path.name}")
    if found.hexdigest() != blob.sha256:
        part.unlink()
        raise Unreachable(_refuse_results(known, f"{path.name} with another checksum than when its runner ended"))
    return part


def _refuse_results(known: str, what: str) -> str:
    return f"the job {known} gives {what}: it was tampered with, or the disk there is damaged; the job was left there, unused"


def hash_files(files: Mapping[str, Blob]) -> str:
    """Return a checksum over all files of a job."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def list_modules(facts: dict[str, Any]) -> list[str]:
    """Return what a job imports, by the names under which that is done."""
    runtimes = {subject["runtime"] for subject in facts["subjects"]} & set(plugins.list_names("runtimes"))
    return ["numpy", *sorted(plugins.load("runtimes", name).package.replace("-", "_") for name in runtimes)]


def measure_models(facts: dict[str, Any], files: Mapping[str, Blob]) -> list[tuple[str, int]]:
    """Return the name of each subject and how much its files hold."""
    folders = {subject["name"]: subject["file"].rpartition("/")[0] + "/" for subject in facts["subjects"]}
    return [
        (name, sum(blob.size_bytes for place, blob in files.items() if place.startswith(folder)))
        for name, folder in folders.items()
    ]
