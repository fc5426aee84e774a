"""Read finished runs for the comparison of int8: files, test images, and calibration images.

Everything is read back from the folder that `compress run` left, and nothing is changed there. Only files with the default
options of their format are compared, one for each precision: those of the run, or those that `compress export` left in the
run's folder `exports`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.protocol import Images, Subject, find_runtime
from benchmarks.report import pages
from compress import records
from compress.errors import CompressError
from compress.preprocess import normalise
from compress.quantization import calibration
from compress.quantization.calibration import Calibration
from compress.recipe import Recipe, load
from compress.records import Exported, Gate, Manifest, Report, Variant, read
from compress.run.data import RunData, prepare_data
from compress.system.files import hash_file

EXPORTS = "exports"
"""Where `compress export` leaves files in a run's folder, each with a record beside it."""
PREFIX = "int8_"
"""Of the recipes' names; the tables leave it out."""
FLOAT = "fp32"
ABSOLUTE = re.compile(r"(?<![\w.:/<~-])/(?:[\w.+@=-]+/)+[\w.+@=-]+")


class Finished(NamedTuple):
    """One run."""

    name: str
    folder: Path
    report: Report
    recipe: Recipe
    data: RunData
    calibration: Calibration
    """The same images as for the ladder."""
    variants: tuple[Variant, ...]
    """Rows of the files, also of those that were not made."""
    files: Mapping[str, Subject]
    """The student's files by the name of their row."""

    def group_by_format(self) -> dict[str, dict[str, Variant]]:
        """Return the student's rows, by format and precision; only formats with a float32 file to compare with."""
        found: dict[str, dict[str, Variant]] = {}
        for row in self.variants:
            if row.name == f"student-{row.format}-{row.precision}" and row.format != "torch":
                found.setdefault(row.format, {})[row.precision] = row
        return {name: rows for name, rows in found.items() if f"student-{name}-{FLOAT}" in self.files}

    def normalise_test(self) -> Images:
        """Normalise the test images as a network sees them, [N, C, H, W]."""
        return normalise(self.data.test.images, self.data.preprocess)


def open_run(folder: Path, *, exported: Collection[str] = ()) -> Finished:
    """Read a finished run.

    Args:
        folder: Of the run.
        exported: Formats that `compress export` made of it, instead of those that the run exported itself.

    Raises:
        Unreachable: There is no finished run.
        CompressError: Its data or its files are not those of its report, or no file can be compared.
    """
    report = read(folder / "report.json", Report)
    recipe = load(folder / "recipe.yaml")
    data = prepare_data(recipe.data, base=folder, seed=recipe.seed, cache=folder.resolve().parent / ".cache" / "images")
    if report.test_key and data.test_key != report.test_key:
        raise CompressError(f"{folder}: the test images are not those of its report.json; run its recipe again")
    shown = calibration.select_calibration(
        data.train, data.preprocess, count=recipe.int8.calibration_images, seed=recipe.seed
    )  # fmt: skip
    name = recipe.name.removeprefix(PREFIX)
    if exported:
        made = list(_find_exports(folder, exported))
        variants, subjects = tuple(row for row, _ in made), [subject for _, subject in made]
    else:
        variants, subjects = report.variants, list(_find_subjects(folder, report))
    found = Finished(name, folder, report, recipe, data, shown, variants, {each.name: each for each in subjects})
    for missing in sorted(set(exported) - found.group_by_format().keys()):
        raise CompressError(
            f"{folder / EXPORTS}: holds no float32 file of format {missing!r}; run "
            f"`compress export {shlex.quote(str(folder))} --to {missing}:{FLOAT} --to {missing}:int8`"
        )
    if not found.group_by_format():
        raise CompressError(
            f"{folder}: no float32 file passed its gate, so there is nothing to compare int8 with; see its report"
        )
    return found


def _find_subjects(folder: Path, report: Report) -> Iterator[Subject]:
    """Yield the student's files: those of the bundle, and those that were kept apart because they failed."""
    bundle = folder / "bundle"
    manifest = read(bundle / "manifest.json", Manifest)
    takes = {}
    for entry in manifest.files:
        for part, sha256 in entry.parts.items():
            if hash_file(bundle / part) != sha256:
                raise CompressError(f"{bundle / part}: is not the file that was proved; run the recipe again")
        if entry.measured is not None:
            takes[entry.measured.name] = entry.batch_size, entry.takes_pixels
            yield Subject(entry.measured.name, bundle / entry.path, entry.runtime, entry.batch_size, entry.takes_pixels)
    for row in report.variants:
        gate, plain = report.gates.get(row.name), takes.get(f"student-{row.format}-{FLOAT}")
        if row.network == "student" and gate is not None and gate.status == "failed" and plain is not None:
            path = _find_rejected(folder, row, gate)
            if path is not None:
                yield Subject(row.name, path, row.runtime, *plain)


def _find_exports(folder: Path, formats: Collection[str]) -> Iterator[tuple[Variant, Subject]]:
    """Yield the files that `compress export` made: those that passed, and those that failed."""
    shipped = read(folder / "bundle" / "manifest.json", Manifest).provenance.get("weights", "")
    for path in sorted((folder / EXPORTS).glob("*.json")):
        known = read(path, Exported)
        entry, row = known.file, known.file.measured
        if entry.format not in formats or row is None:
            continue
        if known.weights_sha256 != shipped:
            raise CompressError(f"{path}: is of another student than the run's bundle; export the run again")
        for part, sha256 in entry.parts.items():
            if hash_file(path.parent / part) != sha256:
                raise CompressError(f"{path.parent / part}: is not the file that was proved; export the run again")
        yield row, Subject(row.name, path.parent / entry.path, entry.runtime, entry.batch_size, entry.takes_pixels)


def _find_rejected(folder: Path, row: Variant, gate: Gate) -> Path | None:
    """Return the file of a row whose gate failed; `None` where it was never run."""
    for path in sorted((folder / "rejected").glob("*.gate.json")):
        file = path.with_name(path.name.removesuffix(".gate.json"))
        if gate.samples and find_runtime(file) == row.runtime and read(path, Gate) == gate:
            return file
    return None


def shorten_paths(value: Any) -> Any:
    """Shorten every absolute path to its last two parts, in a text or in the texts of nested lists and mappings."""
    if isinstance(value, str):
        return ABSOLUTE.sub(lambda found: "/".join(found[0].split("/")[-2:]), value)
    if isinstance(value, Mapping):
        return {key: shorten_paths(each) for key, each in value.items()}
    return [shorten_paths(each) for each in value] if isinstance(value, list) else value


def copy_reports(run: Finished, folder: Path) -> None:
    """Write a run's `report.json` and `report.md` without the places of this machine.

    Raises:
        Unreachable: The disk is full, or a folder cannot be read or written.
    """
    records.save(folder / "report.json", Report.model_validate(shorten_paths(run.report.model_dump(mode="json"))))
    pages.save(folder / "report.md", shorten_paths((run.folder / "report.md").read_text(encoding="utf-8")))
