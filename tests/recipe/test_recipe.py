"""A recipe is strict data: what it accepts, what it says about each mistake, and what it never does."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from compress import recipe
from compress.errors import CompressError, RecipeError, Unreachable
from compress.recipe import Recipe
from compress.recipe.yaml import MAX_BYTES

WHERE = "recipes/x.yaml"


def parse(text: str | bytes, *overrides: str) -> Recipe:
    return recipe.parse(text.encode() if isinstance(text, str) else text, WHERE, overrides)


def problems(text: str | bytes, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(text, *overrides)
    return list(caught.value.problems)


@pytest.fixture
def changed(tiny_recipe: str) -> Callable[[str, str], str]:
    """Return the tiny recipe with one piece of text replaced; the piece must be there."""

    def change(old: str, new: str) -> str:
        assert tiny_recipe.count(old) == 1
        return tiny_recipe.replace(old, new)

    return change


MISTAKES = {
    "unknown field": ("temperature: 2", "temprature: 2", "6: method.temprature: unknown field; did you mean 'temperature'?"),
    "renamed section": ("gate:", "targets:", "10: targets: is now called 'teacher_outputs'; rename it"),
    "unknown section": ("gate:", "gates:", "10: gates: unknown field; did you mean 'gate'?"),
    "field of another plug-in": (
        "temperature: 2",
        "label_smoothing: 0.1",
        "6: method.label_smoothing: unknown field; there are: ce_weight, kd_weight, name, preset, standardise, temperature",
    ),
    "in one of several": (
        "{name: kd, temperature: 2}",
        "[dist, {name: kd, temprature: 2}]",
        "6: method.1.temprature: unknown field",
    ),
    "in the only one of a list": (
        "{name: kd, temperature: 2}",
        "[{name: kd, temprature: 2}]",
        "6: method.temprature: unknown field",
    ),
    "in a combined baseline": (
        "[supervised]",
        "[supervised, [dist, {name: kd, temprature: 2}]]",
        "7: baselines.1.1.temprature: unknown field; did you mean 'temperature'?",
    ),
    "nested section": (
        "train: {epochs: 1}}",
        "train: {epoch: 1}}",
        "4: teacher.train.epoch: unknown field; did you mean 'epochs'?",
    ),
    "truth value for a number": ("{epochs: 1, lr", "{epochs: true, lr", "8: train.epochs: must be a whole number, not true"),
    "text for a number": ("{epochs: 1, lr", '{epochs: "3", lr', "8: train.epochs: must be a whole number, not '3'"),
    "fraction for a whole number": ("{epochs: 1, lr", "{epochs: 1.5, lr", "8: train.epochs: must be a whole number, not 1.5"),
    "list for a number": ("{epochs: 1, lr", "{epochs: [1], lr", "8: train.epochs: must be a whole number, not a list"),
    "number for text": ("name: tiny", "name: 7", "1: name: must be text, not 7"),
    "nothing for a number": ("seed: 1", "seed:", "2: seed: must be a whole number, not nothing"),
    "below its range": ("{epochs: 1, lr", "{epochs: 0, lr", "8: train.epochs: must be at least 1, not 0"),
    "not above zero": ("lr: 5e-2", "lr: 0", "8: train.lr: must be above 0, not 0"),
    "above its range": (
        "validation_fraction: 0.2",
        "validation_fraction: 20",
        "3: data.validation_fraction: must be below 1, not 20",
    ),
    "not a number": ("lr: 5e-2", "lr: .nan", "8: train.lr: must be"),
    "infinite": ("lr: 5e-2", "lr: .inf", "8: train.lr: must be finite, not inf"),
    "no such word": ("lr: 5e-2", "schedule: cosin", "8: train.schedule: there is no 'cosin'; did you mean 'cosine'?"),
    "no such word at all": ("lr: 5e-2", "optimizer: lion", "8: train.optimizer: there is no 'lion'; there are: adamw, sgd"),
    "no such plug-in": ("name: kd", "name: kdd", "6: method.name: there is no 'kdd'; did you mean 'kd'?"),
    "no such plug-in by name": (
        "[supervised]",
        "[supervize]",
        "7: baselines.name: there is no 'supervize'; did you mean 'supervised'?",
    ),
    "no such device": (
        "devices: [local]",
        "devices: [locale]",
        "11: measure.devices.device: there is no 'locale'; did you mean 'local'?",
    ),
    "plug-in without its name": ("name: kd, temp", "temp", "6: method.name: is missing; there are: "),
    "missing section": ("seed: 1\n", "sead: 1\n", "2: sead: unknown field; did you mean 'seed'?"),
    "missing field": ("image_size: 8, ", "", "3: data.image_size: is missing"),
    "text for a section": (
        "{max_top1_drop_points: 1.0, min_agreement: 0.98}",
        "strict",
        "10: gate: must be a section with fields, not 'strict'",
    ),
    "number for a plug-in": ("{model: resnet_cifar.resnet8}\nm", "3\nm", "5: student: must be a section with fields, not 3"),
    "empty section": (
        "{max_top1_drop_points: 1.0, min_agreement: 0.98}",
        "",
        "10: gate: must be a section with fields, not nothing",
    ),
    "no teacher": (
        "{model: resnet_cifar.resnet8, train: {epochs: 1}}",
        "[]",
        "4: teacher: must be a list of at least 1, not an empty list",
    ),
    "unfit name": ("name: tiny", "name: ../tiny", "1: name: must be text that matches"),
    "key that is no text": ("seed: 1", "1: 1", "2: key '1' is not text; quote it"),
    "repeated key": ("seed: 1", "seed: 1\nseed: 2", "3: seed: is repeated; keep one"),
    "tag": (
        "seed: 1",
        "seed: !!python/object/apply:os.getpid []",
        "2: tag 'tag:yaml.org,2002:python/object/apply:os.getpid' is not allowed",
    ),
    "tag of a user": ("seed: 1", "seed: !env SEED", "2: tag '!env' is not allowed; a recipe is plain data"),
    "undefined alias": ("seed: 1", "seed: *other", "2: found undefined alias 'other'"),
    "broken syntax": ("seed: 1", "seed: [1", "3: "),
    "tab": ("seed: 1", "\tseed: 1", "2: found character '\\t' that cannot start any token"),
    "half a character": ("name: tiny", 'name: "\\ud800"', "1: '\\ud800' holds half a character; write it as itself"),
    "huge number": ("seed: 1", "seed: " + "9" * 5000, "2: is a number with too many digits"),
}


@pytest.mark.parametrize(("old", "new", "expected"), MISTAKES.values(), ids=MISTAKES)
def test_mistake(changed: Callable[[str, str], str], old: str, new: str, expected: str) -> None:
    """Each mistake is one line that begins with file, line and field, and says the value and the way out."""
    (problem,) = problems(changed(old, new))
    assert problem.startswith(f"{WHERE}:{expected}")


def test_missing_section(tiny_recipe: str) -> None:
    """A section that is not there is missed in the first line."""
    (problem,) = problems("".join(line for line in tiny_recipe.splitlines(keepends=True) if not line.startswith("student")))
    assert problem == f"{WHERE}:1: student: is missing"


def test_all_problems_in_order_of_the_file(changed: Callable[[str, str], str]) -> None:
    """Everything that is wrong is said at once, in the order in which the reader of the file meets it, `--set` last."""
    text = changed("{epochs: 1, lr: 5e-2, batch_size: 256}", "{lr: -1, epochs: x}\nname: again").replace("kd", "kdd")
    lines = problems(text, "seed=-1")
    assert [line.split(": ")[:2] for line in lines] == [
        [f"{WHERE}:6", "method.name"],
        [f"{WHERE}:8", "train.epochs"],
        [f"{WHERE}:8", "train.lr"],
        [f"{WHERE}:9", "name"],
        ["--set seed=-1", "seed"],
    ]


def test_line_is_that_of_the_value(changed: Callable[[str, str], str]) -> None:
    """In a section over several lines the problem's own line is told, also behind an alias."""
    text = changed("train: {epochs: 1, lr: 5e-2, batch_size: 256}", "train: &t\n  epochs: 1\n\n  # how fast\n  lr: -1\n")
    assert [line.split(": must")[0] for line in problems(text)] == [f"{WHERE}:12: train.lr"]
    text = (
        text.replace("{epochs: 1}", "*t")
        .replace("train: *t", "train: &t {epochs: 1,\n lr: -1}")
        .replace("train: &t\n", "train:\n")
    )
    assert [line.split(": must")[0] for line in problems(text)] == [f"{WHERE}:5: teacher.train.lr", f"{WHERE}:13: train.lr"]


def test_whole_recipe(tiny_recipe: str) -> None:
    """Every section arrives as its frozen type, single items as lists, names of plug-ins as sections with all defaults."""
    loaded = parse(tiny_recipe)
    assert loaded.data.source == "digits"
    assert [teacher.model for teacher in loaded.teacher] == ["resnet_cifar.resnet8"]
    assert loaded.teacher[0].train == recipe.TrainSection(epochs=1)
    assert loaded.method[0].options() == {
        "preset": "simkd",
        "temperature": 2.0,
        "ce_weight": None,
        "kd_weight": None,
        "standardise": None,
    }
    assert [[method.name for method in methods] for methods in loaded.baselines] == [["supervised"]]
    assert [device.device for device in loaded.measure.devices] == ["local"]
    assert loaded.train.lr == 0.05


def test_sections_are_frozen(tiny_recipe: str) -> None:
    """A loaded recipe cannot be changed behind the back of what was computed from it."""
    loaded = parse(tiny_recipe)
    for section, field in ((loaded, "seed"), (loaded.train, "epochs"), (loaded.method[0], "temperature")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, 1)


@pytest.mark.parametrize(
    "plain", ["{name: kd, temperature: 2}", "[{name: kd, temperature: 2}]", "[[{name: kd, temperature: 2}]]"]
)
def test_single_items_stand_without_brackets(changed: Callable[[str, str], str], plain: str) -> None:
    """A baseline means the same with and without the brackets of a list of one."""
    (baseline,) = parse(changed("[supervised]", plain)).baselines
    assert [method.name for method in baseline] == ["kd"]


def test_yaml_1_2_scalars(changed: Callable[[str, str], str]) -> None:
    """`5e-4` is a number; `no`, a date and a time are text; anchored truth values stay truth values."""
    loaded = parse(changed("name: tiny", "name: 2024-01-31").replace("5e-2", "5e-4, nesterov: &yes true"))
    assert (loaded.name, loaded.train.lr, loaded.train.nesterov) == ("2024-01-31", 5e-4, True)
    assert problems(changed("5e-2", "1, nesterov: no")) == [f"{WHERE}:8: train.nesterov: must be true or false, not 'no'"]
    assert problems(changed("seed: 1", "seed: 1:30")) == [f"{WHERE}:2: seed: must be a whole number, not '1:30'"]


def test_merge_keys_and_aliases(changed: Callable[[str, str], str]) -> None:
    """`<<` adds what a mapping lacks, wherever it stands; the earlier of two sources wins."""
    text = changed("{epochs: 1}", "&fast {epochs: 2, lr: 0.3}").replace(
        "train: {epochs: 1, lr: 5e-2, batch_size: 256}", "train: {lr: 0.1, <<: [*fast, {epochs: 9, batch_size: 7}]}"
    )
    loaded = parse(text)
    assert (loaded.train.lr, loaded.train.epochs, loaded.train.batch_size) == (0.1, 2, 7)
    assert problems(changed("seed: 1", "<<: 3")) == [f"{WHERE}:2: a merge key takes a mapping, or a list of mappings"]


def bomb(first: str, layer: str) -> str:
    """Return eight layers, each of which names the one before it nine times."""
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    return f"a: &a {first}\n" + "".join(f"{name}: &{name} {layer % ','.join([f'*{inner}'] * 9)}\n" for inner, name in pairs)


BOMBS = {
    "billion laughs": bomb("[x,x,x]", "[%s]"),
    "merge bomb": bomb("{x: 1}", "{<<: [%s]}"),
    "contains itself": "a: &a [*a, *a]",
    "merges itself": "a: &a {<<: *a}",
    "deep": "[" * 5000,
    "deep and closed": "a: " + "[" * 100 + "]" * 100,
    "wide": "[" + "a," * 20_000 + "]",
    "large": "a: " + "x" * MAX_BYTES,
    "not UTF-8": b"name: \xff",
    "control character": "name: \x00",
    "empty": "",
    "only a comment": "# nothing\n",
    "list": "- name: x",
    "scalar": "name",
    "two documents": "name: x\n---\nname: y\n",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
def test_hostile_text_is_refused_fast(text: str | bytes) -> None:
    """What is no recipe at all, or would expand without bound, is one line after little work."""
    begun = time.process_time()
    (problem,) = problems(text)
    assert problem.startswith(f"{WHERE}:")
    assert time.process_time() - begun < 30  # work, whatever else runs: half a second for the slowest, unbounded takes hours


@given(st.one_of(st.text(st.characters(codec="utf-8")), st.binary(), st.text(alphabet="ab:-[]{}&*!|>'\"#%@,?<~ \n\t0.e")))
@example("? a").via("a complex key without a value")
@example("!!int x").via("a tag that does not fit")
@example("%YAML 1.1\n---\na: no").via("a directive")
@example("a: &x 1\nb: &x 2").via("an anchor used twice")
@example("!!map {a: 1}").via("explicit standard tag")
def test_any_text_is_refused_in_words(text: str | bytes) -> None:
    """No input at all ends in anything but a list of problems."""
    assert all(problem.startswith(WHERE) for problem in problems(text))


WORD = st.sampled_from(["name", "model", "source", "kd", "digits", "epochs", "train", "local", "é", ""])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)


@example(section="baselines", value={"name": {"name": None}}).via("a mapping where a name should be")
@example(section="student", value={"model": {"a": "b:c"}}).via("the same for a network")
@given(section=st.sampled_from(sorted(Recipe.model_fields)), value=JSON)
def test_any_value_is_refused_in_words(section: str, value: object) -> None:
    """Whatever stands where a section should be, the message names that section and no type of pydantic's."""
    document = json.dumps({"name": "x", section: value})
    for problem in problems(document):
        field = problem.removeprefix(f"{WHERE}:1: ").partition(": ")[0]
        assert field.split(".")[0] in Recipe.model_fields
        assert not any(word in problem for word in ("Input", "function", "tuple", "dict", "Section"))


def test_override_fields(tiny_recipe: str) -> None:
    """`--set` replaces a field, an item of a list, the only item without its index; and adds fields and whole sections."""
    loaded = parse(
        tiny_recipe, "train.lr=5e-4", "baselines.0=dist", "method.temperature=3", "train.ema_decay=0.9",
        "teacher.train.epochs=7", "exports=[onnx, openvino]", "gate=", "gate.min_agreement=0.5",
    )  # fmt: skip
    assert (loaded.train.lr, loaded.train.ema_decay, loaded.teacher[0].train.epochs) == (5e-4, 0.9, 7)  # type: ignore[union-attr]
    assert (loaded.baselines[0][0].name, loaded.method[0].options()["temperature"]) == ("dist", 3.0)
    assert [export.format for export in loaded.exports] == ["onnx", "openvino"]
    assert loaded.gate.min_agreement == 0.5


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epochs=0", "--set train.epochs=0: train.epochs: must be at least 1, not 0"),
        ("train.epoch=3", "--set train.epoch=3: train.epoch: unknown field; did you mean 'epochs'?"),
        ("trian.epochs=3", "--set trian.epochs=3: trian: unknown field; did you mean 'train'?"),
        ("targets.store=off", "--set targets.store=off: targets: is now called 'teacher_outputs'; rename it"),
        ("student={}", "--set student={}: student.model: is missing; there are: "),
        ("method.name=kdd", "--set method.name=kdd: method.name: there is no 'kdd'; did you mean 'kd'?"),
        (
            "exports=[{format: onnx, opset: 17}]",
            "--set exports=[{format: onnx, opset: 17}]: exports.opset: there is no 17; there are: 18, 19, 20, 21, 22, 23, 24",
        ),
        ("train.epochs", "--set train.epochs: is not of the form field.path=value"),
        ("=3", "--set =3: is not of the form field.path=value"),
        ("train..epochs=3", "--set train..epochs=3: is not of the form field.path=value"),
        ("baselines.3=kd", "--set baselines.3=kd: the recipe has no place 'baselines.3'"),
        ("seed.x=1", "--set seed.x=1: the recipe has no place 'seed.x'"),
        ("seed=[", "--set seed=[: "),
        ("seed=!!binary x", "--set seed=!!binary x: tag 'tag:yaml.org,2002:binary' is not allowed"),
    ],
)
def test_override_mistakes(tiny_recipe: str, override: str, expected: str) -> None:
    """A wrong `--set` is quoted as it was typed, since no line of the file holds it."""
    (problem,) = problems(tiny_recipe, override)
    assert problem.startswith(expected)


def test_override_mends_the_file(changed: Callable[[str, str], str]) -> None:
    """A field that is wrong in the file and replaced by `--set` is no problem."""
    assert parse(changed("seed: 1", "seed: x"), "seed=3").seed == 3


def test_load_names_the_file(tmp_path: Path, tiny_recipe: str) -> None:
    """Messages name the file as it was given; a file that cannot be read is told apart from a wrong one."""
    path = tmp_path / "x.yaml"
    path.write_text(tiny_recipe.replace("seed: 1", "seed: x"))
    with pytest.raises(RecipeError, match="^" + str(path) + ":2: seed: must be a whole number, not 'x'$"):
        recipe.load(path)
    with pytest.raises(Unreachable, match=r"there\.yaml: cannot be read \(No such file or directory\)"):
        recipe.load(tmp_path / "there.yaml")
    with pytest.raises(Unreachable, match="Is a directory"):
        recipe.load(tmp_path)


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    """Return what an editor does with `compress schema`."""
    document = recipe.json_schema()
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def test_json_schema_agrees_with_the_loader(validator: jsonschema.Draft202012Validator, tiny_recipe: str) -> None:
    """An editor accepts what `load` accepts, shorthands included, and what was loaded and written again."""
    validator.validate(YAML(typ="safe", pure=True).load(tiny_recipe))
    again = parse(tiny_recipe).model_dump(mode="json")
    validator.validate(again)
    assert parse(json.dumps(again)) == parse(tiny_recipe)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("seed",), "x"), (("sead",), 1), (("train", "epochs"), 0), (("train", "epochs"), True), (("method", "name"), "kdd"),
        (("method", "temperature"), 0), (("method", "temprature"), 1), (("student",), "resnet"), (("teacher",), []),
        (("exports",), [{"format": "onnx", "precision": "fp7"}]),
    ],
)  # fmt: skip
def test_json_schema_rejects_mistakes(
    validator: jsonschema.Draft202012Validator, tiny_recipe: str, place: tuple[str, ...], value: object
) -> None:
    """An editor marks what `load` refuses."""
    document = YAML(typ="safe", pure=True).load(tiny_recipe)
    inner = copy.deepcopy(document)
    section: dict[str, Any] = inner
    for key in place[:-1]:
        section = section[key]
    section[place[-1]] = value
    assert not validator.is_valid(inner)
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(inner, text)
    problems(text.getvalue())


def test_json_schema_explains_every_field(validator: jsonschema.Draft202012Validator) -> None:
    """Hovering over any field in an editor shows one line on it."""
    document = validator.schema
    for section in [document, *document["$defs"].values()]:  # type: ignore[index]
        for name, field in section.get("properties", {}).items():
            assert field.get("description"), f"{section['title']}.{name} has no description"


def test_options_of_a_users_method(install: Callable[..., None], changed: Callable[[str, str], str]) -> None:
    """The options of a package's own method are validated, have its defaults, and are told to editors."""
    source = (
        '"""Acme\'s method."""\nclass Mine:\n    """Mine.\n\n    Args:\n        strength: How strong.\n    """\n'
        "    def __init__(self, student, *, strength: Positive, taps: Listing[Text] | None = None): ...\n"
    )
    install("methods", "mine", source)
    method = parse(changed("{name: kd, temperature: 2}", "{name: mine, strength: 2, taps: layer1}")).method[0]
    assert method.options() == {"strength": 2.0, "taps": ("layer1",)}
    assert problems(changed("{name: kd, temperature: 2}", "{name: mine, strenght: 2}")) == [
        f"{WHERE}:6: method.strength: is missing",
        f"{WHERE}:6: method.strenght: unknown field; did you mean 'strength'?",
    ]
    (fields,) = [part for part in recipe.json_schema()["$defs"].values() if part["title"] == "MethodSection.mine"]
    assert fields["properties"]["strength"] == {
        "description": "How strong.", "exclusiveMinimum": 0, "title": "Strength", "type": "number",
    }  # fmt: skip
    assert set(fields["required"]) == {"name", "strength"}


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("name: Text", "option 'name' is already a field of every methods section; rename it"),
        ("size: Tensor", "option 'size': annotation 'Tensor': name 'Tensor' is not defined; use the types of compress.recipe"),
        ("size: __import__('os')", "name '__import__' is not defined"),
    ],
)
def test_unfit_options_name_the_plug_in(install: Callable[..., None], tiny_recipe: str, signature: str, expected: str) -> None:
    """A package whose options cannot be fields is named, with the option."""
    install("methods", "mine", f'"""Mine."""\nclass Mine:\n    def __init__(self, *, {signature}): ...\n')
    with pytest.raises(CompressError, match=f"acme.mine_methods: .*{expected}"):
        parse(tiny_recipe)


def test_equal_sections_have_equal_text(tiny_recipe: str) -> None:
    """The text that cache keys are made of depends on values, not on spelling or order."""
    text = tiny_recipe.replace("{epochs: 1, lr: 5e-2, batch_size: 256}", "{batch_size: 256, lr: 0.05, epochs: 1}")
    assert recipe.canonical(parse(text)) == recipe.canonical(parse(tiny_recipe))
    assert recipe.canonical(parse(tiny_recipe, "seed=2")) != recipe.canonical(parse(tiny_recipe))


def test_every_recipe_of_the_repository_loads(root: Path) -> None:
    """What is shipped as an example is right, and its header says what to know before running it."""
    paths = sorted((root / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        recipe.load(path)
        header = path.read_text(encoding="utf-8").split("\nname:")[0]
        for word in ("Purpose", "Source", "Command", "Duration", "Expected"):
            assert f"# {word}" in header, f"{path.name} does not say its {word.lower()}"


def test_imports_nothing_heavy() -> None:
    """Reading recipes loads no numerical library, so that `check`, `list` and `schema` answer at once."""
    program = (
        "import sys, pathlib; from compress import recipe; recipe.load(pathlib.Path(sys.argv[1])); recipe.json_schema();"
        "print(*{'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'sklearn'} & set(sys.modules))"
    )
    path = Path(__file__).parents[2] / "recipes" / "digits.yaml"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
