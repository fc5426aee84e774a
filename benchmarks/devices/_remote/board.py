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
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from benchmarks.devices._device import BoardJob, Detached, Progress, Say
from benchmarks.devices._process import POOLS, QUIET
from benchmarks.devices._remote.agent import Agent, AgentFailed, require
from benchmarks.devices._remote.board_facts import MODULES, describe_board, describe_busy, format_time
from benchmarks.devices._remote.fetching import read_promise, take_results
from benchmarks.devices._remote.fitness import list_modules, refuse_failed, refuse_unfit
from benchmarks.devices._remote.ledger import ID, forget_job, record_job
from benchmarks.devices._remote.packing import Blob, list_files, send_files
from benchmarks.devices._remote.prepare import prepare
from benchmarks.devices._remote.progress import Gone, Shown, Tagged
from benchmarks.devices._remote.transport import Lost, Transport, clip
from benchmarks.devices._results import check_results
from benchmarks.devices._runner_output import RunnerOutput
from compress.errors import CompressError, Interrupted, Unreachable

POLL_SECONDS, SELDOM_SECONDS = {"evaluate": 0.2}, 2.0
"""How often the board looks for progress; in all tasks that measure, seldom, for that costs the measurement."""
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
            shown = Shown(progress)
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
            refuse_failed(output, end, timeout_seconds, self.address)
            check_results(job, facts)

    def _limit(self, job: Path) -> dict[str, Any]:
        """Write into a job to which cores it keeps itself there; return its facts."""
        facts: dict[str, Any] = json.loads((job / "job.json").read_text(encoding="utf-8"))
        if self.cpus != "all":
            facts["cpus"] = self.cpus
            (job / "job.json").write_text(json.dumps(facts), encoding="utf-8")
        return facts

    def tag_errors(self) -> Tagged:
        """Return a context that puts the board's name before what is raised."""
        return Tagged(self.name)

    def _start(
        self, job: Path, facts: dict[str, Any], files: Mapping[str, Blob], seconds: float, shown: Shown
    ) -> str:  # fmt: skip
        """Push what is missing and start the job; return its number."""
        answer = self.agent.ask("open", {"files": files, "python": self.python, "modules": list_modules(facts)})
        refuse_unfit(answer, facts, files, folder=self.folder, address=self.address)
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

    def _put(self, job: Path, files: Mapping[str, Blob], missing: list[str], request: dict[str, Any], shown: Shown) -> None:
        """Send what is missing until the job has started."""
        tries, gone = 0, Gone(self.lost_minutes, self.say)
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

    def _wait_for(self, busy: Any, shown: Shown) -> None:
        """Wait a while for the job that runs there.

        Raises:
            Unreachable: Nobody wants to wait.
        """
        text = describe_busy(busy)
        if not self.wait:
            raise Unreachable(f"{text}; wait for it, or see compress device jobs {self.address}")
        shown.note(f"waits: {text}")
        time.sleep(SELDOM_SECONDS)

    def _follow(self, known: str, pause: float, shown: Shown) -> tuple[RunnerOutput, dict[str, Any]]:
        """Follow a job to its end, over any number of connections."""
        output, offset, gone = RunnerOutput(), 0, Gone(self.lost_minutes, self.say)
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

    def _take(self, known: str, end: dict[str, Any], job: Path, files: Mapping[str, Blob], shown: Shown) -> None:
        """Fetch the results of a job, check them, and have the job removed there."""
        promised, gone = read_promise(known, end, files), Gone(self.lost_minutes, self.say)
        while True:
            try:
                take_results(self.agent, known, promised, job)
            except Lost as error:
                gone.wait(error, shown, f"the job {known} lies there; {self._name_remedy(known)}")
            else:
                return

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


def hash_files(files: Mapping[str, Blob]) -> str:
    """Return a checksum over all files of a job."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
