"""Tiny runs that are killed at chosen and at random moments, or whose finished results are damaged, and then repeated.

Whatever happened, the repeated run ends like an undisturbed one: the same weights and files, byte for byte, the same figures
but for times, no traceback, and nothing left over. What was damaged in the cache is said.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.studies.torture.damage import DAMAGES
from benchmarks.studies.torture.forked import Ended, count_operations, run_command
from benchmarks.studies.torture.recipes import TINY
from compress.system.files import hash_file

TIMES = frozenset({
    "seconds", "waiting_seconds", "teacher_seconds", "created", "latency_ms", "ratio", "throughput_per_s", "environment",
    "peak_memory_bytes", "headline", "checksum", "warnings", "notes", "ms_per_batch", "recipe", "views_computed", "effective",
})  # fmt: skip
"""Fields of a report that say how long something took, on which machine, or what happened on the way."""
KILLS_IN_ONE_FOLDER = 5


class TinyRun:
    """A tiny run in a folder of its own, and what it gives when nothing disturbs it.

    Args:
        place: Where runs are made; must not be there.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.undisturbed = place, place.with_name(f"{place.name}-undisturbed")

    @cached_property
    def operations(self) -> int:
        """How many operations on files an undisturbed run makes; it is made here, once.

        Raises:
            RuntimeError: The undisturbed run did not end well.
        """
        self._begin()
        ended = self.repeat()
        if ended.status:
            raise RuntimeError(f"the undisturbed run ended with {ended.status}: {ended.said}")
        shutil.copytree(self.place, self.undisturbed)
        return count_operations(self.place)

    @cached_property
    def results(self) -> dict[str, Any]:
        """What it must give."""
        _ = self.operations
        return self._collect_results(self.undisturbed)

    def kill_and_repeat(self, random: Random) -> Iterator[str]:
        """Kill a run again and again, each time at another moment, until it is let through; yield what came of each kill."""
        wanted, operations = self.results, self.operations
        self._begin()
        for _ in range(KILLS_IN_ONE_FOLDER):
            if random.random() < 0.7:
                ended = self.repeat(kill_at=random.randint(1, operations))
            else:
                ended = self.repeat(kill_after_seconds=random.uniform(0.05, 3))
            if ended.status == 0:
                break
            yield (
                "killed"
                if ended.status < 0 and "Traceback" not in ended.said
                else f"fault: {ended.status}: {ended.said[-500:]}"
            )
        yield self._judge_end(wanted, self.repeat(), "ended like an undisturbed run")

    def sabotage_and_repeat(self, random: Random) -> str:
        """Damage one file of a finished run or of its cache, repeat the run, and return what came of it."""
        wanted = self.results
        shutil.rmtree(self.place)
        shutil.copytree(self.undisturbed, self.place)
        files = sorted(path for path in (self.place / "runs").rglob("*") if path.is_file() and "locks" not in path.parts)
        victim = random.choice(files)
        name = random.choice([*DAMAGES, "lost", "a folder"])
        _damage(victim, name, random)
        ended = self.repeat()
        where, good = victim.relative_to(self.place).as_posix(), "no harm: what was damaged is written anew, or read by nobody"
        if name == "a folder" and ended.status == 5 and f"{where}: cannot be written (Is a directory); move away" in ended.said:
            shutil.rmtree(victim)  # as the message says; it might have been somebody's
            ended, good = self.repeat(), "refused, since a folder is in a file's place, and well once that was moved away"
        found = self._judge_end(wanted, ended, good)
        if found.startswith("fault"):
            return f"{found} ({name}: {where})"
        return "said, and made anew" if "damaged" in ended.said else found

    def repeat(self, *, kill_at: int | None = None, kill_after_seconds: float | None = None) -> Ended:
        """Run the recipe in its folder."""
        return run_command(["run", "recipe.yaml", "-q"], self.place, kill_at=kill_at, kill_after_seconds=kill_after_seconds)

    def _begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        (self.place / "recipe.yaml").write_text(TINY, encoding="utf-8")

    def _judge_end(self, wanted: dict[str, Any], ended: Ended, good: str) -> str:
        if "Traceback" in ended.said or ended.status == 1:
            return f"fault: a traceback: {ended.said[-500:]}"
        if ended.status:
            return f"fault: refused to go on ({ended.status}): {ended.said[-500:]}"
        if left := self._list_leftovers():
            return f"fault: left over: {', '.join(left)}"
        found = self._collect_results(self.place)
        differing = [name for name in wanted if found.get(name) != wanted[name]]
        return f"fault: other than undisturbed: {', '.join(differing)}" if differing else good

    def _list_leftovers(self) -> list[str]:
        hidden = [path for path in (self.place / "runs").rglob(".*") if path.name not in {".cache", ".lock"}]
        left = [path for path in hidden if not path.name.startswith(".engine")]  # a choice for a continuation
        left += (self.place / "runs" / ".cache").glob("*.partial")
        left += (path for path in (self.place / "tmp").iterdir() if not path.name.startswith("torchinductor"))  # torch's own
        return [path.relative_to(self.place).as_posix() for path in left]

    def _collect_results(self, place: Path) -> dict[str, Any]:
        run = place / "runs" / "tiny"
        files = {
            name: hash_file(run / name)
            for name in ("student/weights.safetensors", "teacher/weights.safetensors", "bundle/student-fp32.onnx")
            if (run / name).is_file()
        }
        report = json.loads((run / "report.json").read_text(encoding="utf-8")) if (run / "report.json").is_file() else {}
        return {**files, "figures": _strip_times(report)}


def _damage(path: Path, name: str, random: Random) -> None:
    if name == "lost":
        path.unlink()
    elif name == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(DAMAGES[name](path.read_bytes(), random))


def _strip_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _strip_times(inner) for name, inner in value.items() if name not in TIMES}
    return [_strip_times(inner) for inner in value] if isinstance(value, list) else value
