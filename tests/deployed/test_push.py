"""`compress export --push`: a bundle becomes a repository of the hub, in one commit or not at all."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporters.bundle.bundle import check_bundle
from tests.deployed.brightness import invoke, write_bundle
from tests.deployed.hub_server import TOKEN, Hub, serve

pytest.importorskip("huggingface_hub", reason="the extra 'hf' is not installed")
NAME = "me/brightness"
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning"  # huggingface_hub to its client, when it uploads a file
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("push") / "bundle")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        # The protocol of git-lfs; the other one, Xet, has a server of its own, which is not played here.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        yield hub


def test_the_bundle_arrives_whole(bundle: Path, hub: Hub, tmp_path: Path) -> None:
    """The repository is private, has one commit, and what it holds is a bundle with its model card, byte by byte."""
    done = invoke("export", bundle, "--push", NAME, "--licence", "mit", "--json")
    assert done.exit_code == 0, done.output
    sent = json.loads(done.stdout)
    repository = hub.repositories[NAME]
    assert (repository["private"], repository["commits"], sent["private"]) == (True, 1, True)
    assert re.fullmatch("[0-9a-f]{40}", sent["commit"])
    for name, content in repository["branches"]["main"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert check_bundle(tmp_path) == check_bundle(bundle)
    assert (tmp_path / "README.md").read_text().startswith("---\nlicense: mit\n")
    assert hub.blobs, "large files go by git-lfs"
    assert TOKEN not in done.output


def test_a_branch_and_a_second_time(bundle: Path, hub: Hub) -> None:
    """A branch is made where it is not there, and the same command may be repeated."""
    for _ in range(2):
        done = invoke("export", bundle, "--push", NAME, "--revision", "trial")
        assert done.exit_code == 0, done.output
    branches = hub.repositories[NAME]["branches"]
    assert "manifest.json" in branches["trial"]
    assert branches["main"] == {}


def test_nothing_becomes_public_unless_one_says_so(bundle: Path, hub: Hub) -> None:
    """A repository that everybody can read is refused until `--public` is given; a new one is public with it."""
    hub.add(NAME, private=False)
    done = invoke("export", bundle, "--push", NAME)
    assert (done.exit_code, hub.repositories[NAME]["commits"]) == (2, 0)
    assert f"{NAME}: is there already, and everybody can read it; allow that with --public" in done.output
    assert invoke("export", bundle, "--push", NAME, "--public").exit_code == 0
    assert invoke("export", bundle, "--push", "me/new", "--public").exit_code == 0
    assert not hub.repositories["me/new"]["private"]


@pytest.mark.parametrize("token", ["hf_wrong", ""])
def test_a_refused_or_missing_token(
    token: str, bundle: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One message that names the cause and the command, exit code 5; the token is not in it, and nothing is made."""
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", token)
    done = invoke("export", bundle, "--push", NAME)
    assert done.exit_code == 5, done.output
    assert ("refuses the token (401)" if token else "there is no token for the hub") in done.output
    assert "hf auth login" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not token or token not in done.output
    assert hub.repositories == {}


@pytest.mark.parametrize(
    ("place", "state"), [("/commit/", "was made there and is empty"), ("/api/models/me", "nothing was changed")]
)
def test_a_cut_connection(place: str, state: str, bundle: Path, hub: Hub) -> None:
    """Wherever it is cut, there is one message with exit code 5, no file on the hub, and the same command goes on."""
    hub.cuts = place
    done = invoke("export", bundle, "--push", NAME)
    assert done.exit_code == 5, done.output
    assert "cannot be reached" in done.output
    assert state in done.output
    assert all(files == {} for each in hub.repositories.values() for files in each["branches"].values())
    hub.cuts = None
    assert invoke("export", bundle, "--push", NAME).exit_code == 0
    assert "manifest.json" in hub.repositories[NAME]["branches"]["main"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--push", "brightness"], "is no repository of the hub; write OWNER/NAME"),
        (["--push", "me/a--b"], "Cannot have -- or .. in repo_id"),
        (["--push", NAME, "--hub", "folder"], "give one"),
        (["--public"], "name it with --push"),
    ],
)
def test_wrong_usage(options: list[str], said: str, bundle: Path, hub: Hub) -> None:
    """It is refused before anything is asked."""
    done = invoke("export", bundle, *options)
    assert done.exit_code == 2
    assert said in done.output
    assert hub.repositories == {}


def test_the_package_is_named_where_it_is_missing(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message with the command that installs it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = invoke("export", bundle, "--push", NAME)
    assert done.exit_code == 5
    assert "export --push needs the package 'huggingface_hub', which is not installed: pip install" in done.output
