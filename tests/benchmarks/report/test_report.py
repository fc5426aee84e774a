"""What a reader can rely on in `report.json`, `report.md`, `report.html` and the terminal's table."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.report import wording
from compress.errors import Unreachable
from compress.records import Accuracy, Analysis, EngineTrial, Report, TeacherOutputsResult, read
from tests.benchmarks.reading import HOSTILE, Page, changed, html_of, shown
from tests.benchmarks.sample_report import sample, with_seeds


@pytest.fixture(scope="module")
def record() -> Report:
    return sample()


@pytest.fixture(scope="module")
def folder(record: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report")
    report.write(record, path)
    return path


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_json_comes_back_as_it_went(record: Report, folder: Path) -> None:
    """`report.json` holds the whole record."""
    assert read(folder / "report.json", Report) == report.add_headline(record)
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json", "report.md"]


def test_every_variant_is_a_row(record: Report, page: Page, folder: Path) -> None:
    """No file that was made is missing from the page or from the Markdown."""
    assert [attributes["data-variant"] for _, attributes in page.elements if "data-variant" in attributes] == [
        each.name for each in record.variants
    ]
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    table = markdown.partition("## Files")[2].partition("##")[0]
    assert sum(line.startswith("| ") for line in table.splitlines()) == len(record.variants) + 1


def test_markdown_tables_are_rectangular(record: Report, folder: Path, tmp_path: Path) -> None:
    """Every row of a Markdown table has as many cells as its head."""
    report.write(with_seeds(record), tmp_path)
    for path, tables in ((folder, 4), (tmp_path, 5)):
        blocks = re.findall(r"(?:^\|.*\n)+", (path / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert len(blocks) == tables
        for block in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_page_needs_nothing_else(folder: Path) -> None:
    """The page has no script and refers to nothing outside itself."""
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<img|\bsrc=|\bhref=|\bon\w+=", html)
    assert "default-src 'none'" in html


def test_order_is_that_of_a_reader(page: Page) -> None:
    """The verdict comes first, then picture, files, worth, gates, training, cohort, how it was made."""
    parts = [
        "1 of 3 files failed the gate", "Accuracy against latency", "Files", "Methods compared", "Gates",
        "Training", "Cohort", "Latency in detail", "How this was measured", "Environment", "Recipe",
    ]  # fmt: skip
    places = [page.text.index(part) for part in parts]
    assert places == sorted(places)


def test_what_few_images_cannot_tell_is_shown(record: Report, tmp_path: Path) -> None:
    """The interval of the drop and the gate's note stand beside the drop, also of a file that passed, and stay text."""
    gates = {
        name: gate.model_copy(update={"drop_ci95": (-1.24, 3.4567), "note": f"216 images cannot exclude it {HOSTILE}"})
        for name, gate in record.gates.items()
    }
    page = Page(html_of(record.model_copy(update={"gates": gates}), tmp_path))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8").partition("## Gates")[2].partition("##")[0]
    for text in (page.text, markdown):
        assert text.count("−1.24 to +3.46") == len(gates)
        assert text.count("note: 216 images cannot exclude it") == len(gates)
    assert HOSTILE in page.text
    assert "script" not in {name for name, _ in page.elements}


def test_a_file_better_than_its_network_has_a_minus_sign(record: Report, tmp_path: Path) -> None:
    """A negative drop and its interval have the minus sign of the other tables, in the page and in the Markdown."""
    gates = {
        name: gate.model_copy(update={"top1_drop_points": -0.65, "drop_ci95": (-1.57, -0.25)})
        for name, gate in record.gates.items()
    }
    page = Page(html_of(record.model_copy(update={"gates": gates}), tmp_path))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert markdown.count("| −0.650 (−1.57 to −0.25) |") == len(gates)
    assert page.text.count("−0.650") == page.text.count("−1.57 to −0.25") == len(gates)
    for text in (page.text, markdown):
        assert "-0.6" not in text


def test_strangers_text_stays_text(record: Report, tmp_path: Path) -> None:
    """Markup in names, reasons, classes, notes, facts and recipes is shown and never acted on."""
    hostile = changed(record, "student-torch-fp32", method=HOSTILE, runtime=HOSTILE, effective={HOSTILE: HOSTILE})
    failed = record.gates["student-openvino-fp16"].model_copy(update={"reason": HOSTILE})
    stage = record.stages[1].model_copy(update={"stage": HOSTILE, "members": {HOSTILE: Accuracy.from_hits(1, 2)}})
    update = {"name": HOSTILE, "classes": (HOSTILE,), "notes": (HOSTILE,), "recipe": {"name": HOSTILE + "\n```\n# out"}}
    hostile = hostile.model_copy(update={**update, "stages": (stage,), "gates": {**record.gates, failed.reason: failed}})
    seeded = with_seeds(record)
    scores = tuple(each.model_copy(update={"network": HOSTILE, "method": HOSTILE}) for each in seeded.scores[2:])
    compared = tuple(each.model_copy(update={"this": HOSTILE, "other": HOSTILE, "note": HOSTILE}) for each in seeded.paired)
    hostile = hostile.model_copy(update={"scores": scores, "paired": compared})
    html = html_of(hostile, tmp_path)
    page = Page(html)
    assert "<script" not in html
    assert "script" not in {tag for tag, _ in page.elements}
    assert page.text.count("<script>alert(1)</script>") >= 9
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    prose, _, recipe = markdown.partition("## Recipe")
    assert "<script" not in prose
    assert "](javascript" not in prose.replace("\\]", "")
    assert recipe.strip().startswith("```")
    assert recipe.strip().splitlines()[0] == recipe.strip().splitlines()[-1]
    assert HOSTILE in shown(report.make_table(hostile), width=300)


def test_no_page_commands_the_terminal_that_prints_it(record: Report, tmp_path: Path) -> None:
    """Control characters of names are shown by their numbers, in HTML as in Markdown."""
    name = "es\x1b[31mc"
    hostile = changed(record, "student-torch-fp32", method=name)
    html = html_of(hostile.model_copy(update={"classes": (name,), "notes": (name,)}), tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in html + markdown
    assert r"es\x1b[31mc" in html
    assert r"es\\x1b\[31mc" in markdown


@pytest.fixture(scope="module")
def seeded(record: Report) -> Report:
    return with_seeds(record)


def test_every_seed_and_every_comparison_is_shown(seeded: Report, tmp_path: Path) -> None:
    """Page, Markdown and terminal name each network with mean and deviation over seeds, and each verdict with its pairs."""
    page = Page(html_of(seeded, tmp_path))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    terminal = "\n".join(shown(table) for table in report.make_score_tables(seeded))
    assert [attributes["data-contrast"] for _, attributes in page.elements if "data-contrast" in attributes] == [
        f"{each.this} against {each.other}" for each in seeded.paired
    ]
    student = next(each.seeds for each in seeded.scores if each.network == "student")
    values = [score.accuracy.top1_percent for score in student]
    mean = f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f}"
    for text in (page.text, markdown, terminal):
        assert mean in text
        assert "images and 3 seeds" in text
        assert all(f"{value:.1f}" in text for value in values)
    assert "Newcombe" not in page.text
    assert max(map(len, terminal.splitlines())) <= 100
    assert "…" not in terminal
    assert read(tmp_path / "report.json", Report) == report.add_headline(seeded)


def test_one_seed_is_paired_over_images_and_says_what_it_cannot_tell(record: Report, tmp_path: Path) -> None:
    """With one seed the verdict is on the two networks; there is neither a deviation nor an interval over seeds."""
    single = with_seeds(record, seeds=1)
    page = Page(html_of(single, tmp_path))
    assert all(each.pairing == "images" and each.ci95_over_seeds is None for each in single.paired)
    assert "another seed may order otherwise" in page.text
    assert "over seeds 95 %" not in page.text
    assert len(report.make_score_tables(single)) == 1
    assert report.make_score_tables(record) == []


def test_many_seeds_are_summed_up(record: Report, tmp_path: Path) -> None:
    """With more than five seeds the tables stay readable."""
    many = with_seeds(record, seeds=12)
    assert " in all" in Page(html_of(many, tmp_path)).text
    assert max(len(line) for table in report.make_score_tables(many) for line in shown(table).splitlines()) <= 100


def test_missing_values_are_dashes(record: Report, tmp_path: Path) -> None:
    """A file without accuracy, size and latency shows dashes, and is not in the picture."""
    gone = dict.fromkeys(("accuracy", "latency_ms", "ratio", "throughput_per_s", "agreement_percent", "size_bytes"))
    html = html_of(changed(record, "kd-onnx-fp32", **gone, max_abs_diff=None), tmp_path)
    row = html.partition('data-variant="kd-onnx-fp32"')[2].partition("</tr>")[0]
    cells = [re.sub(r"<.*?>", " ", cell).split() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]
    assert cells[1:8] == [["77.8", "k", "–"], ["–"], ["–", "–"], ["–"], ["–"], ["–"], ["–"]]
    assert "kd onnxruntime fp32: top-1" not in html


def test_a_percentile_from_too_few_calls_is_a_dash_and_its_reason_is_there_once(record: Report, tmp_path: Path) -> None:
    """Two files without p99 share one sentence below the table of latencies."""
    reason = "p99 needs at least 1000 calls; measure longer"
    names = [variant.name for variant in record.variants if variant.latency_ms][:2]
    for name in names:
        latency = next(each.latency_ms for each in record.variants if each.name == name)
        record = changed(record, name, latency_ms=latency.model_copy(update={"p99": None, "percentiles_missing": reason}))
    html = html_of(record, tmp_path)
    detail = html.partition("<h2>Latency in detail</h2>")[2]
    for name in names:
        row = detail.partition(f"<th>{name}</th>")[2].partition("</tr>")[0]
        assert re.findall(r"<td.*?</td>", row, re.DOTALL)[2] == '<td class="n">–</td>'
    assert html.count(reason) == 1


def test_empty_report_is_a_page(record: Report, tmp_path: Path) -> None:
    """A run that came to nothing says so and promises nothing."""
    empty = record.model_copy(update={"variants": (), "gates": {}, "stages": (), "status": "failed"})
    text = Page(html_of(empty, tmp_path)).text
    assert "✓" not in text
    assert "No file was measured" in text
    assert "nothing to ship" in shown(report.make_headline(empty))


def ticks(html: str) -> int:
    return html.count("✓")


def test_no_tick_without_a_passed_gate(record: Report, tmp_path: Path) -> None:
    """Green ticks stand for gates that passed, on the row and on the gate, and nothing else."""
    assert ticks(html_of(record, tmp_path)) == 2 * sum(gate.status == "passed" for gate in record.gates.values())
    assert ticks(html_of(record.model_copy(update={"gates": {}, "status": "passed"}), tmp_path)) == 0
    broken = changed(record, "student-onnx-fp32", status="failed", reason="ran out of memory")
    assert ticks(html_of(broken, tmp_path)) == 3
    assert "student-onnx-fp32: ran out of memory" in wording.list_problems(broken)


def test_terminal_table_fits_and_is_whole(record: Report) -> None:
    """In 100 columns no cell is cut or broken, and what failed stands below."""
    text = shown(report.make_table(record))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for word in ("onnxruntime", "openvino", "distinguishable", "failed", "unstable", "6.80× faster", "0.131–0.134", "311 KiB"):
        assert any(word in line for line in lines), word
    assert "student-openvino-fp16: top-1 86.6 %" in text


def test_a_folder_that_refuses_is_one_message(record: Report, tmp_path: Path) -> None:
    """Where nothing can be written, the message names the file, and nothing half-written stays."""
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(Unreachable, match=r"report\.json: cannot be written"):
        report.write(record, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_a_method_leaves_about_a_stage_is_shown(record: Report, tmp_path: Path) -> None:
    """A method's tables, its observed values and the sources of teacher outputs are in page and Markdown, cell by cell."""
    trials = tuple(
        EngineTrial(
            engine=engine, ms_per_batch=ms, relative_difference=0.01, max_logit_difference=0.03, agreement_percent=99.98
        )
        for engine, ms in (("openvino_bf16", 41.0), ("eager", 160.0))
    )
    stage = record.stages[-1].model_copy(
        update={
            "analyses": (
                Analysis(title="Drift", note="Of a | b.", columns=("who", "points"), rows=(("x", "+1"), ("y|z", "-2"))),
            ),
            "teacher_outputs": (
                TeacherOutputsResult(
                    signals=("teacher logits",), engine="openvino_bf16", trials=trials, store="kept", precision="fp16", views=4,
                    views_computed=1, bytes_per_image=20, max_abs_error=0.002, seconds=3.0,
                ),
                TeacherOutputsResult(
                    images="held-out", signals=("teacher layer2",), engine="channels_last", store="off in the recipe",
                    trials=(EngineTrial(engine="channels_last", ms_per_batch=9.0, relative_difference=0.0021),),
                ),
            ),
            "epochs": tuple(
                epoch.model_copy(update={"observed": {"class_weight.first": 0.25}}) for epoch in record.stages[-1].epochs
            ),
        }
    )  # fmt: skip
    told = record.model_copy(update={"stages": (*record.stages[:-1], stage)})
    html = html_of(told, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    for text in ("quantities that the method records", "class_weight.first", "openvino_bf16 41", "eager 160"):
        assert text in html, text
    for line in ("## Drift (", "| who | points |", "|---|--:|", "| x | +1 |", r"| y\|z | -2 |"):
        assert f"\n{line}" in markdown, line
    assert "openvino_bf16 | 0.030 (of a logit; 99.98 % same class)" in markdown
    assert "channels_last | 0.0021 (relative rms)" in markdown  # maps have no largest logit
    assert "kept, fp16 | 4 (1) | 20 |" in markdown


def test_what_ran_a_network_in_training_is_shown(record: Report, tmp_path: Path) -> None:
    """A stage that tried engines says which it took, how fast each was, and how far its gradients were; others say nothing."""
    title = "Engine that ran the networks in training"
    assert title not in html_of(record, tmp_path)
    assert title not in (tmp_path / "report.md").read_text(encoding="utf-8")
    trials = tuple(
        EngineTrial(engine=engine, ms_per_batch=ms, relative_difference=difference)
        for engine, ms, difference in (("compile", 41.0, 0.0021), ("eager", 160.0, 0.0))
    )
    stage = record.stages[-1].model_copy(update={"engine": "compile", "engine_trials": trials})
    html = html_of(record.model_copy(update={"stages": (*record.stages[:-1], stage)}), tmp_path)
    assert title in html
    assert "compile 41.0, eager 160" in html
    assert f"| {stage.stage} | compile | compile 41.0, eager 160 | 0.0021 |" in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )
