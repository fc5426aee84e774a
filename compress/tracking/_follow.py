"""Follow the events of a run and pass them on to the trackers of its recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compress import plugins, records
from compress.errors import CompressError, Interrupted, Unwritable
from compress.events import Events
from compress.recipe import Recipe, TrackSection
from compress.records import Report, StageResult
from compress.records.training import METRICS
from compress.tracking._tracker import TrackedRun, Tracker


def require_trackers(recipe: Recipe) -> list[tuple[str, Tracker]]:
    """Return the trackers of a recipe by their names; nothing begins yet.

    Raises:
        Unreachable: A package that one needs is not installed.
        CompressError: One cannot be made as the recipe says.
    """
    return [(each.tracker, _make(each)) for each in recipe.track]


def _make(section: TrackSection) -> Tracker:
    tracker: Tracker = plugins.load("trackers", section.tracker)(**section.options())
    return tracker


@contextmanager
def follow_run(
    trackers: Sequence[tuple[str, Tracker]], recipe: Recipe, *, folder: Path, events: Events
) -> Iterator[_Followers]:
    """Pass events on while the run goes on; a tracker that fails is named, and the run goes on without it.

    Raises:
        CompressError: A tracker cannot begin.
    """
    followers = _Followers(folder, events)
    if trackers:
        run = TrackedRun(recipe.name, folder.resolve(), recipe.model_dump(mode="json"))
        for name, tracker in trackers:
            _begin(name, tracker, run)
            followers.active[name] = tracker
        events.follow(followers.take)
    try:
        yield followers
    finally:
        followers.finish()


def _begin(name: str, tracker: Tracker, run: TrackedRun) -> None:
    try:
        tracker.begin(run)
    except CompressError:
        raise
    except Exception as error:  # whatever a tracker or its server raises is said as its failure
        raise CompressError(
            f"track: {name}: cannot begin: {plugins.describe_failure(error)}; mend it, or leave it out of the recipe"
        ) from error


class _Followers:
    """The trackers of one run that still work."""

    def __init__(self, folder: Path, events: Events) -> None:
        self.folder, self.events = folder, events
        self.active: dict[str, Tracker] = {}
        self.results: dict[str, float] = {}
        self._seen: set[str] = set()

    def take(self, event: str, fields: Mapping[str, Any]) -> None:
        """Pass on an epoch; of a stage that was found in the cache, all of its epochs."""
        if event == "epoch":
            self._seen.add(fields["stage"])
            self._log(fields)
        elif event == "stage" and fields["found"]:
            for epoch in self._read_epochs(fields["stage"]):
                self._log(epoch)

    def _read_epochs(self, stage: str) -> Iterator[Mapping[str, Any]]:
        path = self.folder / stage / METRICS
        if stage not in self._seen and path.is_file():  # further seeds keep theirs elsewhere, and were followed when trained
            yield from (epoch.model_dump() for epoch in records.read(path, StageResult).epochs)

    def _log(self, fields: Mapping[str, Any]) -> None:
        figures = list_figures(fields)
        self._tell(lambda tracker: tracker.log(fields["stage"], fields["epoch"], figures))

    def add_results(self, report: Report) -> None:
        """Keep the results of the run for its end."""
        self.results = list_results(report)

    def finish(self) -> None:
        """Hand over the results, and end."""
        self._tell(lambda tracker: tracker.finish(self.results))
        self.active.clear()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.active.items()):
            try:
                call(tracker)
            except (Unwritable, Interrupted):
                raise
            except Exception as error:  # noqa: BLE001 (code of others: named and left out, for figures are kept by the run itself)
                del self.active[name]
                self.events.warn(
                    f"track: {name}: {plugins.describe_failure(error)}; it gets nothing further of this run, whose figures "
                    f"are in {self.folder}"
                )


def list_figures(fields: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of an epoch by name."""
    single = ("lr", "validation_percent", "validation_balanced_percent", "seconds", "waiting_seconds", "teacher_seconds")
    figures = {name: float(fields[name]) for name in single if fields.get(name) is not None}
    for kind, name in (("loss", "losses"), ("observed", "observed")):
        figures |= {f"{kind}/{term}": float(value) for term, value in fields.get(name, {}).items()}
    return figures


def list_results(report: Report) -> dict[str, float]:
    """Return the results of a run: of each file its accuracy in percent, its latency in milliseconds, its size in bytes."""
    results: dict[str, float] = {}
    for row in report.variants:
        found = {
            "percent": None if row.accuracy is None else row.accuracy.percent,
            "latency_ms": None if row.latency_ms is None else row.latency_ms.p50,
            "size_bytes": row.size_bytes,
        }
        results |= {f"{row.name}/{name}": float(value) for name, value in found.items() if value is not None}
    return results
