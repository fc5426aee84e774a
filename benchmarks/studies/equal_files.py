"""What a file is called against itself: `python -m benchmarks.studies.equal_files [--network NAME] [--trials 20]`.

With `--device ssh://user@host` each trial times a file here and then there, which should be the same machine by its own address
and the same packages (`--python`): so the way over SSH is compared with none.

An A/A check of the machine that it runs on: each trial times one file under two names, as `compress bench` does, and asks for
the verdict. On a machine that does nothing else 95 of 100 should be "not distinguishable"; in 20 trials two at most may be
called faster or slower, however busy it is. It ends with 4 if there are more. A trial takes about ten seconds; with
`--seconds 1` it takes three and a half, and ten with a device. With `--out` every trial is kept as it is done, and the same
call goes on where it was left; nothing else is written.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from benchmarks.devices import Device, open_device
from benchmarks.protocol import Images, Subject, measure
from benchmarks.studies.fidelity.networks import NETWORKS, make_images, write_files
from compress.errors import Unstable
from compress.records import Ratio, Record
from compress.statistics.series import judge_ratio
from compress.statistics.slowdown import divide_intervals

MOST_DIFFERENT = 0.1
"""Two of twenty: at most one verdict in twenty is a mistake, and of twenty checks one in four then sees two."""
Trial = Callable[[], Ratio]


class EqualFiles(Record):
    """Verdicts on a file against itself."""

    name: str
    trials: int
    verdicts: dict[str, int]
    """How often each was given."""
    lowest: float
    """Of the ratios, and so is the next."""
    highest: float
    covered: int
    """Trials whose interval holds 1."""

    @property
    def different(self) -> int:
        """Trials in which the file was called faster or slower than itself."""
        return self.verdicts.get("faster", 0) + self.verdicts.get("slower", 0)


def check_file(name: str, trials: int, trial: Trial, kept: Path | None = None) -> EqualFiles:
    """Time a file against itself, and count the verdicts.

    Args:
        name: Of the file.
        trials: How often, with those that are kept.
        trial: Times it under two names.
        kept: File of the trials that were done, a line each, to which those that are done now are added.
    """
    ratios = read_trials(kept, name)[:trials]
    while len(ratios) < trials:
        ratios.append(trial())
        if kept is not None:
            add_trial(kept, name, ratios[-1])
    return EqualFiles(
        name=name, trials=trials, verdicts=dict(Counter(each.verdict for each in ratios)),
        lowest=min(each.speedup for each in ratios), highest=max(each.speedup for each in ratios),
        covered=sum(each.ci95[0] <= 1 <= each.ci95[1] for each in ratios),
    )  # fmt: skip


def add_trial(kept: Path, name: str, ratio: Ratio) -> None:
    """Add a trial to those that are kept, on a line of its own whatever came before."""
    line = json.dumps({"file": name, "ratio": ratio.model_dump(mode="json")}).encode() + b"\n"
    with kept.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def read_trials(kept: Path | None, name: str) -> list[Ratio]:
    """Return the trials of a file that were done before; a last line that was cut is none."""
    found = []
    for line in kept.read_text(encoding="utf-8").splitlines() if kept is not None and kept.exists() else []:
        with suppress(json.JSONDecodeError):
            document = json.loads(line)
            found += [Ratio.model_validate(document["ratio"])] if document["file"] == name else []
    return found


def time_here_and_there(path: Path, runtime: str, images: Images, *, seconds: float, device: Device) -> Ratio:
    """Return the ratio of a file's latency on a device to that on this machine, on images [N, C, H, W], one after the other.

    Raises:
        CompressError: The file cannot be timed.
        Unreachable: The device is not there.
    """
    subject = [Subject("file", path, runtime)]
    here = measure(subject, images, against=None, seconds=seconds)["file"].latency
    there = measure(subject, images, against=None, seconds=seconds, device=device)["file"].latency
    speedup, ci95 = divide_intervals(here.p50, here.ci95, there.p50, there.ci95)
    verdict = judge_ratio(ci95, doubtful=not (here.stable and there.stable))
    return Ratio(against="here", speedup=speedup, ci95=ci95, verdict=verdict)


def time_twice(path: Path, runtime: str, images: Images, *, seconds: float) -> Ratio:
    """Return the ratio of a file to itself, on images [N, C, H, W], from interleaved rounds.

    Raises:
        CompressError: The file cannot be timed.
    """
    subjects = [Subject(name, path, runtime) for name in ("one", "two")]
    ratio = measure(subjects, images, against="one", seconds=seconds)["two"].ratio
    assert ratio is not None  # noqa: S101 (for `two` is compared with `one`)
    return ratio


def refuse_different(found: Sequence[EqualFiles]) -> None:
    """Refuse a machine on which equal files are too often called different.

    Raises:
        Unstable: They are.
    """
    wrong = [f"{one.name}: {one.different} of {one.trials}" for one in found if one.different > MOST_DIFFERENT * one.trials]
    if wrong:
        raise Unstable(f"equal files were called different too often ({', '.join(wrong)}); trust no ratio near 1 from here")


@click.command()
@click.option("--network", default="digits", show_default=True, type=click.Choice(list(NETWORKS)))
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=6.0, show_default=True, type=click.FloatRange(min=0.1), help="For both names together.")
@click.option("--only", help="One file, such as 'onnxruntime fp32'.")
@click.option("--device", "address", help="Compare the way to this device with none.")
@click.option("--python", default="auto", help="Of jobs on the device.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Keep every trial here, and go on from there.")
def main(
    *, network: str, trials: int, seconds: float, only: str | None, address: str | None, python: str, out: Path | None
) -> None:  # fmt: skip
    """Time the files of a network against themselves, and count the verdicts.

    Raises:
        SystemExit: With 4, where equal files were called different too often.
    """
    found, images = [], make_images(NETWORKS[network])[:16]
    with tempfile.TemporaryDirectory(prefix="edge-compress-") as folder:
        for file in write_files(network, Path(folder)):
            if only not in (None, f"{file.runtime} {file.precision}"):
                continue
            name = f"{network} {file.runtime} {file.precision}"
            trial = partial(time_twice, file.path, file.runtime, images, seconds=seconds)
            if address is not None:
                device = open_device(address, python=python)
                trial = partial(time_here_and_there, file.path, file.runtime, images, seconds=seconds, device=device)
                name = f"{name} by {device.name}"
            found.append(one := check_file(name, trials, trial, out))
            ratios = f"ratios {one.lowest:.3f} to {one.highest:.3f}, {one.covered} of {trials} intervals hold 1"
            click.echo(f"{one.name}: {one.verdicts}; {ratios}")
    try:
        refuse_different(found)
    except Unstable as error:
        click.echo(str(error), err=True)
        raise SystemExit(error.exit_code) from error


if __name__ == "__main__":
    main()
