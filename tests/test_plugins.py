"""Plug-ins: what is found, what is told of it without importing it, and how a user's own package joins in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress import plugins, recipe
from compress.errors import CompressError, Unreachable
from compress.plugins import REQUIRED, Kind, Option

Install = Callable[..., None]

FOLDERS: dict[Kind, str] = {
    "methods": "compress/methods", "models": "compress/models", "data": "compress/data",
    "tasks": "compress/tasks", "exporters": "exporters", "runtimes": "benchmarks/runtimes", "devices": "benchmarks/devices",
    "trackers": "compress/tracking",
}  # fmt: skip

NETWORK = '''"""A family."""
def small(classes: int, channels: int, *, width: Count = 8) -> Network:
    """A small network.

    Args:
        classes: Not an option, because it is not keyword-only.
        width: Channels of the first layer, which
            may be explained over two lines.

    Raises:
        CompressError: Never.
    """
    return ("network", classes, channels, width)

def _helper() -> None: ...
'''

PLAIN = '"""{summary}"""\nclass {name}:\n    """Does it."""\n    def __init__(self, *, path: Text = "here") -> None: ...\n'


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_a_file_is_a_plug_in(kind: Kind, root: Path) -> None:
    """Every plain file of a plug-in folder is found by its name, and no file with a leading underscore is."""
    files = {path.stem for path in (root / FOLDERS[kind]).glob("*.py") if not path.name.startswith("_")}
    found = {name.partition(".")[0] for name in plugins.list_names(kind)}
    assert files
    assert found == files


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_plug_in_explains_itself(kind: Kind) -> None:
    """Each plug-in has a one-line summary, and one for every option that a recipe can set."""
    for name in plugins.list_names(kind):
        plugin = plugins.describe(kind, name)
        assert plugin.summary, f"{kind}/{name} has no first line"
        if kind != "runtimes":  # their arguments come from the runner
            assert all(option.description for option in plugin.options.values()), f"{kind}/{name}: an option is not described"


def test_describing_imports_nothing() -> None:
    """Listing every plug-in of every kind loads neither them nor what they need."""
    program = (
        "import sys; from compress import plugins;"
        "[plugins.describe(kind, name) for kind in plugins.KINDS for name in plugins.list_names(kind)];"
        "print(*{'torch', 'numpy', 'sklearn', 'openvino', 'onnx'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_users_network(install: Install) -> None:
    """A package's function is a network with its options as the source states them, and loads as that function."""
    install("models", "mine", NETWORK)
    # The package's own `__init__` raises: describing must not run it, loading must.
    plugin = plugins.describe("models", "mine.small")
    assert plugin.summary == "A small network."
    assert plugin.options == {
        "width": Option("Count", 8, "Channels of the first layer, which may be explained over two lines.")
    }
    assert "mine._helper" not in plugins.list_names("models")
    with pytest.raises(CompressError, match=r"models/mine.small: .*mine_models.py cannot be imported: RuntimeError: a plug-in"):
        plugins.load("models", "mine.small")


@pytest.mark.parametrize("kind", ["methods", "data", "exporters", "runtimes", "devices"])
def test_a_users_class(install: Install, kind: Kind) -> None:
    """Every kind can be added to from outside, and the name of a file with words is that of its class in capitals."""
    install(kind, "my_own", PLAIN.format(summary="My own.", name="MyOwn"))
    plugin = plugins.describe(kind, "my_own")
    assert (plugin.attribute, plugin.summary, plugin.options) == ("MyOwn", "My own.", {"path": Option("Text", "here", "")})
    assert "my_own" in plugins.list_names(kind)


@pytest.mark.parametrize(
    ("kind", "field"),
    [("methods", "method"), ("data", "data.source"), ("exporters", "exports"), ("devices", "measure.devices")],
)
def test_a_users_class_in_a_recipe(install: Install, tiny_recipe: str, kind: Kind, field: str) -> None:
    """A recipe names a package's plug-in like one of ours, by name alone where its options have defaults."""
    install(kind, "my_own", PLAIN.format(summary="My own.", name="MyOwn"))
    assert '"path":"here"' in recipe.canonical(recipe.parse(tiny_recipe.encode(), "x.yaml", [f"{field}=my_own"]))


def test_load_returns_what_the_file_holds(install: Install, tmp_path: Path) -> None:
    """Loading imports the module and returns its class."""
    install("devices", "mine", '"""Mine."""\nclass Mine:\n    name = "mine"\n')
    (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")
    assert plugins.load("devices", "mine").name == "mine"


def test_a_missing_package_is_named(install: Install, tmp_path: Path) -> None:
    """A plug-in whose package is not installed says which, and how to get it."""
    install("devices", "mine", '"""Mine."""\nimport surely_not_installed.part\nclass Mine: ...\n')
    (tmp_path / "site-packages" / "acme" / "__init__.py").write_text("")
    with pytest.raises(
        Unreachable, match=r"^devices/mine needs the package 'surely_not_installed', .*: pip install 'surely_not"
    ):
        plugins.load("devices", "mine")


def test_a_missing_package_of_an_extra() -> None:
    """Where one of our extras brings the package, that is what is offered."""
    brought = {"pyarrow.parquet": "hf", "timm": "timm", "ai_edge_litert": "litert", "torchao.quantization": "executorch"}
    for name, extra in brought.items():
        message = plugins.explain_missing_package("data/huggingface", ModuleNotFoundError("No module named 'x'", name=name))
        assert message.endswith(f"pip install 'edge-compress[{extra}]'")


def test_unknown_name() -> None:
    """A name that is not there is answered with the nearest one, or with all."""
    with pytest.raises(CompressError, match=r"^methods: there is no 'kdd'; did you mean 'kd'\?$"):
        plugins.describe("methods", "kdd")
    with pytest.raises(CompressError, match=r"^methods: there is no 'zzz'; there are: .*kd"):
        plugins.load("methods", "zzz")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("class Other: ...", "a plug-in named 'mine' must hold the class 'Mine'"),
        ("class Mine(:", "cannot be read as a plug-in: invalid syntax"),
        ("class Mine:\n    def __init__(self, *, size: Count = 2 ** 3): ...", "cannot be read as a plug-in: malformed node"),
    ],
)
def test_an_unfit_plug_in_is_named(install: Install, source: str, expected: str) -> None:
    """A package that breaks the contract is named by its file."""
    install("devices", "mine", source)
    with pytest.raises(CompressError, match=f"mine_devices.py: {expected}"):
        plugins.list_names("devices")


def test_two_plug_ins_of_one_name(install: Install) -> None:
    """A package cannot silently take the place of one of ours."""
    install("methods", "kd", '"""Mine."""\nclass Kd: ...\n')
    with pytest.raises(CompressError, match=r"entry point 'kd' .* compress\.methods\.kd already has 'kd'; rename one"):
        plugins.list_names("methods")


@pytest.mark.parametrize("value", ["acme.gone", "gone.module", "acme.gone:Mine"])
def test_an_entry_point_to_nowhere(install: Install, value: str) -> None:
    """An entry point names an installed module; anything else is said with the entry point's name."""
    install("methods", "mine", '"""Mine."""\nclass Mine: ...\n', value=value)
    with pytest.raises(Unreachable, match=f"entry point 'mine' of compress.methods.* no module {value.partition(':')[0]!r}"):
        plugins.list_names("methods")


def test_required_options_have_no_default(install: Install) -> None:
    """An option without a default must be given."""
    install("devices", "mine", '"""Mine."""\nclass Mine:\n    def __init__(self, *, host: Text, port: Count = 22): ...\n')
    options = plugins.describe("devices", "mine").options
    assert options["host"].default is REQUIRED
    assert options["port"].default == 22


def test_an_entry_point_may_name_the_thing_itself(install: Install) -> None:
    """`module:attribute`, as entry points are mostly written, is that class or function under the entry point's name."""
    gentle = 'class Other:\n    """Does it."""\n    def __init__(self, setting, *, weight: Count = 1): ...\n'
    install("methods", "gentle", gentle, value="acme.gentle_methods:Other")
    install("models", "slim", NETWORK, value="acme.slim_models:small")
    method, network = plugins.describe("methods", "gentle"), plugins.describe("models", "slim")
    assert (method.attribute, method.summary, list(method.options)) == ("Other", "Does it.", ["weight"])
    assert (network.attribute, network.summary, list(network.options)) == ("small", "A small network.", ["width"])


def test_an_entry_point_to_a_name_that_is_not_there(install: Install) -> None:
    """It is named, with what the module holds."""
    install("models", "slim", NETWORK, value="acme.slim_models:smal")
    with pytest.raises(CompressError, match=r"entry point 'slim' .* defines no 'smal'; did you mean 'small'"):
        plugins.list_names("models")


FOREIGN = '''
from acme.parts_models import *
from acme.parts_models import Net as Other

def small(num_classes, in_channels=3, width=8, depths=(1, 2), act=print):
    """A small network.

    Args:
        width: Of its layers.
    """

class Net:
    def __init__(self, in_ch, n_classes, *, weights=None, size: "list[int]" = [4], scale: float): ...

made = small
'''

PARTS = "class Net:\n    def __init__(self, classes): ...\n\ndef hidden(classes, channels): ...\n"


@pytest.fixture
def foreign(install: Install, tmp_path: Path) -> None:
    """A package that knows nothing of ours, and raises when it is imported."""
    install("models", "parts", PARTS, value="acme.parts_models:hidden")
    (tmp_path / "site-packages" / "acme" / "nets.py").write_text(FOREIGN, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("acme.nets:small", {"width": 8, "depths": (1, 2)}),
        ("acme.nets:Net", {"weights": None, "size": [4], "scale": REQUIRED}),
        ("acme.nets:hidden", {}),
        ("acme.nets:Other", {}),
        ("acme.nets:made", {}),
    ],
)
def test_a_network_is_named_by_its_function(foreign: None, name: str, options: dict[str, object]) -> None:
    """A function, a class, and what a module imports or assigns are read without being run; the rest are options."""
    plugin = plugins.describe("models", name)
    assert {key: option.default for key, option in plugin.options.items()} == options
    assert plugin.origin == "reference"
    assert plugin.attribute == name.partition(":")[2]
    assert {path.name for path in plugins.list_sources(plugin)} == {"__init__.py", "nets.py", "parts_models.py"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("acme.nets:smal", "'acme.nets:smal': .*nets.py defines no 'smal'; did you mean 'small'"),
        ("acme.gone:small", "Python finds no module 'acme.gone' with a source; pip install its package, or .* PYTHONPATH"),
        ("gone:small", "Python finds no module 'gone'"),
        ("os:system", "is a part of Python itself"),
        ("subprocess:run", "is a part of Python itself"),
        ("acme.nets", "there is no 'acme.nets'"),
        ("../nets.py:small", "is no module:function; write for example"),
        ("acme.nets:small()", "is no module:function"),
    ],
)
def test_a_function_that_is_not_there_is_named_with_its_line(foreign: None, tiny_recipe: str, name: str, said: str) -> None:
    """The recipe's line, what was looked for, and what to do; nothing was run."""
    written = tiny_recipe.replace("student: {model: resnet_cifar.resnet8}", f"student: {{model: '{name}'}}")
    with pytest.raises(CompressError, match=rf"^x.yaml:5: student.model: .*{said}"):
        recipe.parse(written.encode(), "x.yaml")


def test_a_module_that_cannot_be_read_is_named_where_its_names_are_imported(
    foreign: None, tmp_path: Path, tiny_recipe: str
) -> None:
    """Whoever imports a network from a file with a mistake hears of the mistake, not that there is no such network."""
    folder = tmp_path / "site-packages" / "acme"
    (folder / "broken.py").write_text("def slim(classes:\n", encoding="utf-8")
    (folder / "shop.py").write_text("from acme.broken import slim\nfrom acme.parts_models import *\n", encoding="utf-8")
    written = tiny_recipe.replace("student: {model: resnet_cifar.resnet8}", "student: {model: 'acme.shop:slim'}")
    with pytest.raises(CompressError, match=r"student.model: 'acme.shop:slim': .*broken.py: cannot be read: '\(' was never"):
        recipe.parse(written.encode(), "x.yaml")
    assert plugins.describe("models", "acme.shop:hidden").module == "acme.shop"


def test_a_recipe_may_set_what_the_function_takes(foreign: None, tiny_recipe: str) -> None:
    """Options without types take any value, those with types are checked, and unknown ones are refused as ever."""
    settings = ["student.model=acme.nets:Net", "student.scale=0.5", "student.size=[2, 3]"]
    section = recipe.parse(tiny_recipe.encode(), "x.yaml", settings).student
    assert section.options() == {"scale": 0.5, "size": [2, 3]}
    for setting, said in (("student.scale=big", "must be a number"), ("student.sice=1", "did you mean 'size'")):
        with pytest.raises(CompressError, match=said):
            recipe.parse(tiny_recipe.encode(), "x.yaml", [*settings[:1], "student.scale=1", setting])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet18", "'torchvision.resnet18'"), ("ResNet-18", "'torchvision.resnet18'"),
        ("resnet_20", "'resnet_cifar.resnet20'"), ("resnet_cifar.resnet18", "'torchvision.resnet18'"),
        ("mobilenetv3", "'torchvision.mobilenet_v3_large'"), ("torchvison.resnet18", "'torchvision.resnet18'"),
        ("resnet19", "resnet1"),
    ],
)  # fmt: skip
def test_a_network_is_suggested_by_its_usual_name(name: str, nearest: str) -> None:
    """The family before the name, capitals, dashes and a cut-off end do not hide what is meant."""
    said = plugins.suggest_name(name, plugins.list_names("models"))
    assert said.startswith("did you mean")
    assert nearest in said


def test_a_recipe_says_whose_code_it_runs(foreign: None, tiny_recipe: str) -> None:
    """Every plug-in that is not ours is named with its file; ours are not."""
    from compress.plan.checks import list_foreign_code

    assert list_foreign_code(recipe.parse(tiny_recipe.encode(), "x.yaml")) == ()
    settings = ["student.model=acme.nets:small", "teacher.model=parts"]
    first, second = list_foreign_code(recipe.parse(tiny_recipe.encode(), "x.yaml", settings))
    assert first.startswith("runs code that is not ours: models/parts from ")
    assert "models/acme.nets:small from" in second
    assert second.endswith("nets.py")
