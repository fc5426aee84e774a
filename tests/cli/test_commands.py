"""The command line: what it prints where, with which exit code."""

from __future__ import annotations

import itertools
import json
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from compress import plugins
from compress.cli import doctor
from compress.cli.arguments import FiniteRange
from compress.cli.commands import program
from compress.cli.commands.setup import KINDS
from compress.recipe import load


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(program, [str(argument) for argument in arguments], prog_name="compress")


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "compress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def recipe(tmp_path: Path, tiny_recipe: str) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_recipe, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: str, time_once: None) -> tuple[Path, Result]:
    """The folder of a real run whose gate no file can pass, and what the command answered."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "tiny.yaml").write_text(tiny_recipe, encoding="utf-8")
    overrides = ("gate.max_abs_diff=1e-12", "baselines=[]", "measure.seconds=0.2")
    options = [part for override in overrides for part in ("--set", override)]
    done = invoke("run", folder / "tiny.yaml", "--runs", folder / "runs", "--json", *options)
    return folder / "runs" / "tiny", done


def test_every_command_is_listed_with_its_help() -> None:
    """`compress --help` names every command with a whole sentence, none cut off."""
    lines = invoke("--help").output.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in lines] == list(program.commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


@pytest.mark.parametrize("name", list(program.commands))
def test_every_command_has_the_same_options(name: str) -> None:
    """Every command takes --json, --quiet and --verbose, and describes each of its options."""
    command = program.commands[name]
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "--quiet", "--verbose"} <= flags
    assert all(option.help for option in command.params if isinstance(option, click.Option))


def test_kinds_are_those_of_the_plugin_folders() -> None:
    """The literal table that keeps --help fast is the real one."""
    assert KINDS == plugins.KINDS


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (["lst"], 2, "Did you mean 'list'?"),
        (["check", "missing.yaml"], 5, "missing.yaml: cannot be read"),
        (["list", "methods", "kdd"], 2, "did you mean 'kd'?"),
        (["list", "mathods"], 2, "'mathods'"),
        (["verify", "."], 5, "holds no bundle"),
        (["predict", "nowhere", "x.png"], 5, "nowhere: holds no bundle"),
        (["bench", "nothing.onnx"], 5, "nothing.onnx: there is no such file"),
        (["report", "nowhere"], 5, "nowhere/report.json: cannot be read"),
        (["compare", "nowhere"], 5, "nowhere/report.json: cannot be read"),
        (["compare", "."], 5, ".: has no report yet, as its run is unfinished or failed; repeat that run, or leave it out"),
        (["export", "nowhere"], 5, "nowhere: there is no such run or checkpoint"),
        (["init", "/dev/null/recipe.yaml"], 5, "/dev/null/recipe.yaml: cannot be written"),
        (["init", "--data", "nowhere"], 5, "nowhere: there is no such folder"),
        (["init", "/proc/recipe.yaml"], 5, "/proc/recipe.yaml: cannot be written"),
        (["bench", "x.onnx", "--seconds", "inf"], 2, "inf is not a finite number"),
        (["bench", "x.onnx", "--seconds", "-inf"], 2, "-inf is not in the range x>0"),
        (["bench", "x.onnx", "--seconds", "nan"], 2, "nan is not a finite number"),
        (["bench", "x.onnx", "--seconds", "0"], 2, "0.0 is not in the range x>0"),
    ],
)  # fmt: skip
def test_bad_input_gives_one_message_and_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], exit_code: int, said: str
) -> None:
    """What cannot be done is one message on stderr, nothing on stdout, and the documented exit code."""
    monkeypatch.chdir(tmp_path)
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["check", "missing.yaml"], ["check", "--no-such-option"], ["lst"], ["list", "methods", "kdd"]]
)
def test_errors_are_one_json_document_too(arguments: list[str]) -> None:
    """With --json even a wrong usage leaves exactly one JSON document on stdout, with message and exit code."""
    done = invoke(*arguments, "--json")
    document = json.loads(done.stdout)
    assert document["exit_code"] == done.exit_code != 0
    assert document["error"].splitlines()[0] in done.stderr


@pytest.mark.parametrize(("name", "exit_code"), [("nonesuch.inner", 5), ("compress.nonesuch", 1), (None, 1)])
def test_a_package_that_is_not_installed_is_no_bug(
    name: str | None, exit_code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is missed, one message says what to install; a module missing from a package that is there is our bug."""

    def missing(_runs: Path) -> None:
        raise ModuleNotFoundError("no such module", name=name)

    monkeypatch.setattr(doctor, "examine", missing)
    done = invoke("doctor", "--runs", tmp_path)
    assert done.exit_code == exit_code
    if exit_code == 5:
        wanted = "compress doctor needs the package 'nonesuch', which is not installed: pip install 'nonesuch'\n"
        assert (done.stdout, done.stderr) == ("", wanted)
    else:
        assert isinstance(done.exception, ModuleNotFoundError)


def test_all_problems_of_a_recipe_at_once(tmp_path: Path, recipe: Path) -> None:
    """Every mistake of a recipe is its own line, with file, line and a suggestion."""
    recipe.write_text(recipe.read_text().replace("epochs: 1, lr", "epochs: 0, lrr").replace("seed: 1", "seed: one"))
    done = invoke("check", recipe)
    assert done.exit_code == 2
    assert f"{recipe}:2: seed" in done.stderr
    assert "train.lrr: unknown field; did you mean 'lr'?" in done.stderr
    assert "train.epochs" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "methods"], ["list", "methods", "dih"], ["list", "devices", "local"], ["schema"]]
)
def test_results_are_one_json_document(arguments: list[str]) -> None:
    """--json prints exactly one document on stdout and nothing on stderr."""
    done = invoke(*arguments, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(done.stdout)


def test_check_in_json_is_the_plan(recipe: Path) -> None:
    """A machine reads the same plan as people do."""
    plan = json.loads(invoke("check", recipe, "--json", "--set", "train.epochs=7").stdout)
    student = next(stage for stage in plan["stages"] if stage["name"] == "student")
    assert student["work"]["epochs"] == 7


def test_what_to_type_next(recipe: Path) -> None:
    """A command ends with the next one on stderr, with the overrides that were given; --quiet and --json leave it out."""
    assert invoke("check", recipe, "--set", "seed=5").stderr == f"next: compress run {recipe} --set seed=5\n"
    assert invoke("check", recipe, "--quiet").stderr == ""
    assert invoke("check", recipe, "--json").stderr == ""


def test_what_to_type_next_can_be_pasted(tmp_path: Path, tiny_recipe: str) -> None:
    """The hint repeats every option that was given, quoted so that a shell takes the command apart into the same words."""
    path = tmp_path / "my recipe (1).yaml"
    path.write_text(tiny_recipe, encoding="utf-8")
    given = ["--set", "method={name: kd, temperature: 3}", "--set", "baselines=[]", "--seeds", "1,5", "--runs", "my runs"]
    hint = invoke("check", path, *given).stderr.strip()
    assert shlex.split(hint) == ["next:", "compress", "run", str(path), *given]


def test_what_to_type_next_has_no_trailing_blank() -> None:
    """The hint of a list without a kind ends where its last word ends."""
    assert invoke("list").stderr == "next: compress list KIND\n"
    assert invoke("list", "methods").stderr == "next: compress list methods NAME\n"


def test_list_shows_every_option_of_a_plugin() -> None:
    """The detail of a plug-in names each option with its default, without importing it."""
    shown = invoke("list", "methods", "dih").stdout
    assert all(option in shown for option in plugins.describe("methods", "dih").options)
    assert "Listing[" not in shown
    assert "Teacher and heads\nthen teach the student together" in shown  # broken for this width, not for that of the source


def test_init_writes_a_recipe_that_passes_check(tmp_path: Path) -> None:
    """The starter recipe is a good recipe."""
    path = tmp_path / "my first run.yaml"
    assert shlex.split(invoke("init", path).stderr) == ["next:", "compress", "check", str(path)]
    assert invoke("check", path).exit_code == 0


def write_own_pictures(folder: Path) -> None:
    """Write train/ and val/ of two classes with a hundred pictures each."""
    from PIL import Image

    for split, name, number in itertools.product(("train", "val"), ("cat", "dog"), range(100)):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, len(name), 2 * number)).save(folder / split / name / f"{number}.png")


def test_init_writes_commands_that_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands at the head of a starter recipe are quoted for the shell, and folders keep the letters of their names."""
    monkeypatch.chdir(tmp_path)
    write_own_pictures(tmp_path / "Schlüssel 🔑")
    assert invoke("init", "my first run.yaml", "--data", "Schlüssel 🔑").exit_code == 0
    text = (tmp_path / "my first run.yaml").read_text(encoding="utf-8")
    assert "#   compress run 'my first run.yaml'  " in text
    assert f'  path: "{tmp_path}/Schlüssel 🔑"\n' in text
    assert load(tmp_path / "my first run.yaml").data.options(tmp_path)["path"] == f"{tmp_path}/Schlüssel 🔑"


def test_init_for_own_images_passes_check(tmp_path: Path) -> None:
    """The starter recipe for a folder in hub layout is a good recipe for what lies there."""
    import io

    import pyarrow
    import pyarrow.parquet
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    rows = {"image": [{"bytes": buffer.getvalue(), "path": None}] * 400, "label": [0, 1] * 200}
    (tmp_path / "images").mkdir()
    for split in ("train", "test"):
        pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "images" / f"{split}-00000-of-00001.parquet")
    path = tmp_path / "own.yaml"
    assert invoke("init", path, "--data", tmp_path / "images").exit_code == 0
    done = invoke("check", path, "--json")
    assert json.loads(done.stdout)["images"]["test"] == 400


def test_init_for_own_pictures_passes_check(tmp_path: Path) -> None:
    """The starter recipe for pictures in one folder for each class is a good recipe for what lies there."""
    write_own_pictures(tmp_path / "pictures")
    path = tmp_path / "own.yaml"
    assert invoke("init", path, "--data", tmp_path / "pictures").exit_code == 0
    done = invoke("check", path, "--json")
    assert json.loads(done.stdout)["images"] == {"train": 160, "validation": 40, "test": 200}


def test_init_never_overwrites(tmp_path: Path) -> None:
    """A recipe that is there stays as it is."""
    path = tmp_path / "recipe.yaml"
    path.write_text("mine")
    assert invoke("init", path).exit_code == 2
    assert path.read_text() == "mine"


def test_schema_describes_the_starter_recipe(tmp_path: Path) -> None:
    """The JSON Schema accepts what `init` writes and refuses an unknown field, as `check` does."""
    from jsonschema import Draft202012Validator
    from ruamel.yaml import YAML

    assert invoke("schema", "--out", tmp_path / "schema.json").exit_code == 0
    invoke("init", tmp_path / "recipe.yaml")
    validator = Draft202012Validator(json.loads((tmp_path / "schema.json").read_text()))
    recipe = YAML(typ="safe").load((tmp_path / "recipe.yaml").read_text())
    assert list(validator.iter_errors(recipe)) == []
    assert list(validator.iter_errors(recipe | {"surprise": 1})) != []


@pytest.mark.slow
def test_a_failed_gate_is_exit_code_3_with_the_report(failed_run: tuple[Path, Result]) -> None:
    """A run whose file fails its gate still gives its whole report as the one document, and the reason on stderr."""
    _, done = failed_run
    assert done.exit_code == 3
    assert json.loads(done.stdout)["status"] == "failed"
    assert "more than 1e-12 (gate.max_abs_diff)" in done.stderr


@pytest.mark.slow
def test_report_is_written_anew(failed_run: tuple[Path, Result]) -> None:
    """`compress report` makes both readable reports from report.json and prints table and paths."""
    run, _ = failed_run
    (run / "report.html").unlink()
    (run / "report.md").unlink()
    done = invoke("report", run)
    assert done.exit_code == 0
    assert str(run / "report.html") in done.stdout
    assert (run / "report.html").is_file()
    assert (run / "report.md").is_file()


@pytest.mark.slow
def test_a_report_that_one_may_only_read_is_shown(failed_run: tuple[Path, Result]) -> None:
    """Where nothing can be written the table is printed all the same, and what was not written is said."""
    run, _ = failed_run
    before = {path: path.read_bytes() for path in run.glob("report.*")}
    command = f"ulimit -f 0; exec {sys.executable} -m compress report {run}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
    assert "report.json: cannot be written (File too large)" in done.stderr
    assert {path: path.read_bytes() for path in run.glob("report.*")} == before


@pytest.mark.slow
def test_compare_writes_its_page(failed_run: tuple[Path, Result], tmp_path: Path) -> None:
    """`compress compare --out` prints the table and writes the page with the picture."""
    run, _ = failed_run
    done = invoke("compare", run, "--out", tmp_path / "comparison.html")
    assert done.exit_code == 0
    assert "tiny" in done.stdout
    assert "<svg" in (tmp_path / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_export_of_a_run_keeps_to_its_gate(failed_run: tuple[Path, Result]) -> None:
    """Another format of the same student is judged by the gate of the run's recipe."""
    run, _ = failed_run
    done = invoke("export", run, "--to", "openvino:fp16", "--json")
    assert done.exit_code == 3
    assert {gate["status"] for gate in json.loads(done.stdout).values()} == {"failed"}
    assert "student-openvino-fp16" in done.stderr
    assert (run / "exports" / "rejected" / "student-fp16.xml").is_file()


@pytest.mark.slow
def test_export_takes_the_students_weights_for_their_run_and_no_other_file(failed_run: tuple[Path, Result]) -> None:
    """A checkpoint stands for its run; a teacher's, or a file from elsewhere, is refused with what to give."""
    run, _ = failed_run
    assert invoke("export", run / "student" / "weights.safetensors", "--to", "onnx", "--json").exit_code == 3
    done = invoke("export", run / "teacher" / "weights.safetensors", "--to", "onnx")
    assert done.exit_code == 2
    assert "does not say which network it is of; give --model" in done.stderr


@pytest.mark.slow
def test_export_names_unknown_formats(failed_run: tuple[Path, Result]) -> None:
    """A format that there is not is answered with a suggestion, before anything is loaded."""
    run, _ = failed_run
    done = invoke("export", run, "--to", "onx")
    assert done.exit_code == 2
    assert "did you mean 'onnx'?" in done.stderr


@pytest.mark.slow
def test_doctor_finds_this_machine_healthy(tmp_path: Path) -> None:
    """Where the tests run, every needed part works, and each runtime has done an inference."""
    done = process("doctor", "--json", "--runs", tmp_path / "runs")
    found = {finding["what"]: finding["status"] for finding in json.loads(done.stdout)}
    assert done.returncode == 0, done.stderr
    assert {found[f"runtime {name}"] for name in ("torch", "onnxruntime", "openvino")} == {"ok"}
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_doctor_says_what_cannot_be_written(probe_once: None) -> None:
    """A folder that cannot be written is a failure with its reason, and exit code 5."""
    done = invoke("doctor", "--runs", "/proc/runs")
    assert done.exit_code == 5
    assert "runs folder: /proc" in done.stderr


def test_every_number_of_the_command_line_is_finite() -> None:
    """No option takes NaN or infinity, which a range of click's own lets through."""
    kinds = [parameter.type for command in program.commands.values() for parameter in command.params]
    assert any(isinstance(kind, FiniteRange) for kind in kinds)
    assert not [kind for kind in kinds if isinstance(kind, click.types.FloatParamType) and not isinstance(kind, FiniteRange)]


def test_a_place_where_no_folder_can_be_made_is_one_message(recipe: Path) -> None:
    """A run in /proc, where the system says that there is no such file, is refused with exit code 5."""
    done = invoke("run", recipe, "--runs", "/proc/x")
    assert (done.exit_code, done.stdout) == (5, "")
    assert "/proc/x/tiny: cannot be written (No such file or directory)" in done.stderr
