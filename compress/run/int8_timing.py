"""What int8 buys: files of the ladder against the same network in float32, timed in interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.environment import environment
from benchmarks.protocol import Subject, measure
from compress import records
from compress.errors import Unstable
from compress.fingerprint import make_key
from compress.preprocess import normalise
from compress.records import Document, Ladder, Ratio
from compress.run.context import Run
from compress.system.files import sha256_of

PRICE, IMAGES = "price.json", 256


class Price(Document):
    """How fast each file is against the first, by its name."""

    ratio: dict[str, Ratio]


def priced(run: Run, name: str, ladder: Ladder, plain: Subject, tried: Mapping[int, Subject], *, source: str) -> Ladder:
    """Return the ladder with the speed-up of the rungs whose files are given; where nothing settled, the note says so.

    Args:
        run: Run context.
        name: What the file is called.
        ladder: What was tried.
        plain: The same network in float32 on the same runtime.
        tried: Files by the number of their rung.
        source: sha256 of our own source that measures.
    """
    subjects = [plain, *tried.values()]
    machine, settings = environment(), run.recipe.measure
    key = make_key(
        what="price of int8", files=[[each.name, sha256_of(each.path)] for each in subjects], packages=machine.packages,
        measure=settings.model_dump(mode="json", exclude={"devices"}), cpu=machine.cpu, source=source,
    )  # fmt: skip
    run.events.say(f"{name}: timing {len(tried)} int8 file{'s' * (len(tried) != 1)} against float32")
    try:
        folder = run.cache.make(key, lambda folder: records.save(folder / PRICE, _measured(run, subjects, folder)))
    except Unstable as error:
        return ladder.model_copy(update={"note": " ".join(filter(None, [ladder.note, f"Not timed: {error}."]))})
    ratios = records.read(folder / PRICE, Price).ratio
    rungs = tuple(
        rung.model_copy(update={"speedup": ratios[tried[number].name]}) if number in tried else rung
        for number, rung in enumerate(ladder.rungs)
    )
    return ladder.model_copy(update={"rungs": rungs})


def _measured(run: Run, subjects: Sequence[Subject], folder: Path) -> Price:
    """Time the files at the recipe's batch size, or at the only one that they take; the raw series are left in the folder."""
    settings, pixels = run.recipe.measure, run.data.validation.images[:IMAGES]
    found = measure(
        subjects, normalise(pixels, run.data.preprocess), pixels=pixels, against=subjects[0].name, threads=settings.threads,
        batch_size=subjects[0].batch_size or settings.batch_size, rounds=settings.rounds, seconds=settings.seconds,
        events=run.events, raw=folder / "latency-raw.json",
    )  # fmt: skip
    return Price(ratio={name: each.ratio for name, each in found.items() if each.ratio is not None})
