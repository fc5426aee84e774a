"""Which packages a board gets, for boards that exist, and that what was sent is what runs jobs there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.devices._remote import Remote
from benchmarks.devices._remote.agent import AgentFailed
from benchmarks.devices._remote.prepare import write_identity
from benchmarks.devices._remote.wheels import choose_packages, make_download_options
from benchmarks.protocol import Subject, evaluate
from compress.errors import Unreachable
from tests.benchmarks.boards import Shell, make_wheel, send_wheels

OWN = {"numpy": "2.4.6", "onnxruntime": "1.31.1", "openvino": "2026.4.1", "ai-edge-litert": "2.3.0"}


def board(machine: str, libc: str, bits: int = 64) -> dict[str, object]:
    return {"machine": machine, "libc": libc, "bits": bits}


@pytest.mark.parametrize(
    ("facts", "version", "lines", "tag"),
    [
        pytest.param(
            board("aarch64", "glibc 2.36"), (3, 11, 2),
            "numpy==2.4.6 onnxruntime==1.31.1 openvino==2026.4.1 ai-edge-litert==2.3.0", "manylinux_2_36_aarch64", id="Pi 12",
        ),
        pytest.param(
            board("aarch64", "glibc 2.35"), (3, 10, 12),
            "numpy==2.2.6 onnxruntime==1.23.2 openvino==2026.4.1 ai-edge-litert==2.3.0", "manylinux_2_35_aarch64", id="Jetson",
        ),
        pytest.param(
            board("aarch64", "glibc 2.31"), (3, 9, 2), "numpy==2.0.2 onnxruntime==1.19.2 ai-edge-litert==2.1.0",
            "manylinux_2_31_aarch64", id="Debian 11",
        ),
        pytest.param(
            board("AMD64", "glibc 2.31"), (3, 9, 2),
            "numpy==2.0.2 onnxruntime==1.19.2 openvino==2025.3.0 ai-edge-litert==2.1.0", "manylinux_2_31_x86_64", id="x86",
        ),
    ],
)  # fmt: skip
def test_a_board_gets_the_newest_that_exist_for_it(
    facts: dict[str, object], version: tuple[int, ...], lines: str, tag: str
) -> None:
    """Versions and tags are those under which the index has wheels for that Python and C library."""
    packages = choose_packages(facts, version, OWN)
    assert " ".join(packages.lines) == lines
    assert packages.tags[0] == tag
    assert packages.tags[-1].startswith("manylinux2014_")
    assert ("openvino" in packages.without) is ("openvino" not in lines)
    options = make_download_options(packages)
    assert options[options.index("--python-version") + 1] == f"{version[0]}.{version[1]}"
    assert f"cp{version[0]}{version[1]}" in options


@pytest.mark.parametrize(
    ("facts", "version", "message"),
    [
        (board("armv7l", "glibc 2.41", 32), (3, 13, 5), "sudo apt install python3-numpy python3-onnxruntime"),
        (board("aarch64", "glibc 2.41", 32), (3, 13, 5), "no wheels for 32-bit Arm"),
        (board("aarch64", "musl"), (3, 12, 1), r"no runtime for musl \(Alpine\)"),
        (board("aarch64", ""), (3, 12, 1), "has the C library unavailable"),
        (board("riscv64", "glibc 2.41"), (3, 13, 1), "is a riscv64, and runtimes are made for x86_64 and aarch64"),
        (board("x86_64", "glibc 2.31"), (3, 8, 10), "has Python 3.8, and jobs need 3.9"),
    ],
)
def test_a_board_for_which_nothing_is_made_is_told_what_there_is(
    facts: dict[str, object], version: tuple[int, ...], message: str
) -> None:
    """Nothing is downloaded or made there."""
    with pytest.raises(Unreachable, match=message):
        choose_packages(facts, version, OWN)


def test_a_runtime_that_this_machine_lacks_is_not_wanted() -> None:
    """What makes no file here needs no runtime there."""
    own = {name: OWN[name] for name in ("numpy", "onnxruntime")}
    assert choose_packages(board("aarch64", "glibc 2.36"), (3, 11), own).lines == ("numpy==2.4.6", "onnxruntime==1.31.1")


@pytest.fixture
def device(tmp_path: Path) -> Remote:
    """A board that is a folder of this machine."""
    (tmp_path / "home").mkdir()
    return Remote(Shell(tmp_path / "home"), "ssh://board", "board")


def find_there(device: Remote, module: str) -> bool:
    return device.agent.ask("open", {"modules": [module]})["runner"]["modules"][module]


def test_wheels_that_were_sent_are_what_jobs_import(device: Remote, tmp_path: Path) -> None:
    """A board without pip and index gets packages; the next set takes their place, and all goes when all is removed."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    make_wheel(tmp_path / "one", "surely_sent")
    make_wheel(tmp_path / "two", "sent_later")
    assert not find_there(device, "surely_sent")
    send_wheels(device, tmp_path / "one", "first")
    assert find_there(device, "surely_sent")
    assert device.agent.ask("open", {})["prepared"] == "first"
    send_wheels(device, tmp_path / "two", "second")
    assert (find_there(device, "surely_sent"), find_there(device, "sent_later")) == (False, True)
    ours = tmp_path / "home" / ".cache" / "edge-compress"
    assert [path.name for path in ours.glob("site-*")] == ["site-second"]
    device.clean(everything=False)
    assert find_there(device, "sent_later")
    device.clean(everything=True)
    assert not ours.exists()


@pytest.mark.parametrize("member", ["../{}.py", "/{}.py", "a/../../{}.py"])
def test_a_wheel_never_writes_beside_its_folder(member: str, device: Remote, tmp_path: Path) -> None:
    """It is refused whole, and what was prepared before stays."""
    (tmp_path / "one").mkdir()
    make_wheel(tmp_path / "one", "evil", member)
    with pytest.raises(Unreachable, match="could not do it: ValueError: evil-1"):
        send_wheels(device, tmp_path / "one", "first")
    assert device.agent.ask("open", {})["prepared"] is None
    assert not list((tmp_path / "home").rglob("evil*"))


def test_an_index_out_of_reach_is_told_from_a_broken_package(device: Remote, tmp_path: Path) -> None:
    """Where the board's own pip finds nothing, that is said as such, and no environment stays."""
    device.transport.path = "/usr/bin:/bin"
    with pytest.raises(AgentFailed) as caught:
        device.agent.ask("install", {"lines": ["surely-no-package-of-this-name @ file:///nowhere"], "name": "x"})
    assert caught.value.kind == "OSError"
    assert not list((tmp_path / "home").rglob("venv-*"))


@pytest.mark.slow
def test_the_network_that_proves_a_board_gives_back_its_input(tmp_path: Path) -> None:
    """On every runtime that is proved, here as there."""
    images = np.random.default_rng(0).standard_normal((3, 3, 2, 2)).astype(np.float32)
    for runtime, path in write_identity(tmp_path).items():
        assert np.array_equal(evaluate(Subject("identity", path, runtime), images).logits, images.reshape(3, -1))
