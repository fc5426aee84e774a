"""Weights that a recipe names by address or repository: pinned, fetched once, then there without a network."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from compress import recipe
from compress.errors import CompressError, Unreachable
from compress.events import Events
from compress.models.resnet_cifar import resnet8
from compress.plan.plan import make_plan
from compress.run.build import find_input_format
from compress.run.context import Run, open_run
from compress.run.teachers import obtain_teacher
from compress.run.weights import obtain_weights
from compress.training import checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The hub's protocol: a redirect that states the checksum, to where the file lies."""

    files: dict[str, bytes] = {}  # noqa: RUF012 (of the one server)
    states_checksum = True

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404)
        elif self.path.startswith("/cdn/"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)
        else:
            self.send_response(302)
            self.send_header("Location", f"/cdn{self.path}")
            if self.states_checksum:
                self.send_header("X-Linked-Etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoint.save_weights(tmp_path / "teacher.safetensors", resnet8(7, 1), metadata={})
    return tmp_path / "teacher.safetensors"


@pytest.fixture
def hub(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        place, content = f"/someone/net/resolve/{COMMIT}/model.safetensors", weights.read_bytes()
        Hub.files, Hub.states_checksum = {place: content, f"/cdn{place}": content}, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def open_with(teacher: str, tiny_recipe: str, tmp_path: Path) -> Iterator[Run]:
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [f"teacher={{model: resnet_cifar.resnet8, {teacher}}}"])
    make_plan(parsed, base=tmp_path, runs=tmp_path)
    with open_run(parsed, base=tmp_path, runs=tmp_path, events=Events()) as run:
        yield run


def obtain(teacher: str, tiny_recipe: str, tmp_path: Path) -> Path:
    for run in open_with(teacher, tiny_recipe, tmp_path):
        return obtain_weights(run, run.recipe.teacher[0], "teacher")
    raise AssertionError


def test_a_commit_of_the_hub_is_fetched_once(hub: ThreadingHTTPServer, weights: Path, tiny_recipe: str, tmp_path: Path) -> None:
    """By the hub's own protocol, checked by the checksum that it states, and there without it the second time."""
    named = f"weights: 'hf-hub:someone/net@{COMMIT}'"
    path = obtain(named, tiny_recipe, tmp_path)
    assert path.read_bytes() == weights.read_bytes()
    hub.shutdown()
    hub.server_close()
    assert obtain(named, tiny_recipe, tmp_path) == path


def test_what_the_hub_sends_must_be_what_it_states(hub: ThreadingHTTPServer, tiny_recipe: str, tmp_path: Path) -> None:
    """Other bytes than the stated ones, no stated checksum, and no such file are refused."""
    named, place = f"weights: 'hf-hub:someone/net@{COMMIT}'", f"/cdn/someone/net/resolve/{COMMIT}/model.safetensors"
    Hub.files[place] += b"more"
    with pytest.raises(CompressError, match="what arrived has sha256"):
        obtain(named, tiny_recipe, tmp_path)
    Hub.states_checksum = False
    with pytest.raises(CompressError, match="states no sha256"):
        obtain(named, tiny_recipe, tmp_path / "other")
    with pytest.raises(Unreachable, match=r"404.*fetch that file elsewhere"):
        obtain(f"weights: 'hf-hub:someone/other@{COMMIT}'", tiny_recipe, tmp_path / "other")


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("weights: 'https://example.org/w.pth'", r"may give another file tomorrow; add its sha256"),
        ("weights: 'hf-hub:someone/net'", r"no revision is named; name the commit"),
        ("weights: 'hf-hub:someone/net@main'", r"main is a branch or tag, which moves"),
        ("weights: 'hf-hub:someone'", r"is no place on the hub; write hf-hub:OWNER/NAME@COMMIT"),
        ("weights: w.pth, pretrained: true", r"teacher.pretrained: teacher.weights names weights, too"),
        ("weights_map: in_order", r"teacher.weights_map: is for weights from a file"),
        ("weights: empty", r"is a folder without model.safetensors or pytorch_model.bin"),
    ],
)
def test_what_is_not_pinned_is_refused_by_the_plan(named: str, message: str, tiny_recipe: str, tmp_path: Path) -> None:
    """Nothing is fetched that could be another file tomorrow; the message says what to add."""
    (tmp_path / "empty").mkdir()
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [f"teacher={{model: resnet_cifar.resnet8, {named}}}"])
    with pytest.raises(CompressError, match=message):
        make_plan(parsed, base=tmp_path, runs=tmp_path)


def test_published_weights_are_named_and_bring_their_normalisation(tiny_recipe: str, tmp_path: Path) -> None:
    """A tag that does not exist lists those that do; a teacher takes mean and std from its weights."""
    named = "teacher={model: torchvision.resnet18, pretrained: %s, channels: rgb}"
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [named % "true"])
    with open_run(parsed, base=tmp_path, runs=tmp_path, events=Events()) as run:
        wanted = find_input_format(run.recipe.teacher[0], run.data.preprocess)
        assert wanted.mean == (0.485, 0.456, 0.406)
    parsed = recipe.parse(tiny_recipe.encode(), "tiny.yaml", [named % "IMAGENET1K_V9"])
    with (
        open_run(parsed, base=tmp_path, runs=tmp_path, events=Events()) as run,
        pytest.raises(CompressError, match="no weights called 'IMAGENET1K_V9' for it; there are: IMAGENET1K_V1"),
    ):
        obtain_weights(run, run.recipe.teacher[0], "teacher")


@pytest.mark.slow
def test_a_teacher_is_fine_tuned_from_weights_for_other_classes(weights: Path, tiny_recipe: str, tmp_path: Path) -> None:
    """Weights in hub layout for 7 classes start a teacher of 10: a new head, the frozen backbone of the file, kept."""
    folder = tmp_path / "hub"
    folder.mkdir()
    weights.rename(folder / "model.safetensors")
    named = f"weights: {folder}, train: {{epochs: 4, lr: 0.3, batch_size: 16, backbone_lr_scale: 0}}"
    for run in open_with(named, tiny_recipe, tmp_path):
        trained = obtain_teacher(run, 0, run.recipe.teacher[0])
        given = resnet8(7, 1)
        checkpoint.load_weights(given, folder / "model.safetensors")
        own = dict(trained.network.named_parameters())
        for name, value in given.named_parameters():
            assert "linear" in name or torch.equal(own[name], value)
        assert own["module.linear.weight"].shape == (10, 64)
        again = obtain_teacher(run, 0, run.recipe.teacher[0])
        assert again.key == trained.key
