"""Weights that are paged out: the same numbers in the same tensors, and no memory."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from compress.errors import Unreachable
from compress.teachers.offload import offload_weights
from tests.teachers.example import data, listening, teachers
from tests.tiny import fresh

MIB = 2**20


class Large(nn.Module):
    """48 MiB of frozen weights, of which two layers have one tensor in common."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = (nn.Linear(2048, 2048, bias=False) for _ in range(3))
        self.tied, self.norm = nn.Linear(2048, 2048, bias=False), nn.BatchNorm1d(2048)
        self.tied.weight = self.first.weight
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.norm(self.tied(self.third(self.second(self.first(images)))))
        return output


def test_what_is_paged_out_is_what_it_was(tmp_path: Path) -> None:
    """Same outputs, same parameters, ties and modes; and who writes to a tensor writes to it alone."""
    module, images = Large(), torch.rand(2, 2048)
    exact, parameters = module(images), list(module.parameters())
    offload_weights([module, module.second], tmp_path)
    assert torch.equal(module(images), exact)
    assert all(own is kept for own, kept in zip(module.parameters(), parameters, strict=True))
    assert module.tied.weight is module.first.weight
    assert not list(tmp_path.iterdir())
    other = module.third.weight.clone()
    module.second.weight.add_(1)
    assert torch.equal(module.third.weight, other)
    assert not torch.equal(module(images), exact)


def test_what_is_paged_out_can_be_saved(tmp_path: Path) -> None:
    """Each tensor has a memory of its own as before, so that nobody takes two for one."""
    module = Large()
    save_model(module, str(tmp_path / "before"))
    offload_weights([module], tmp_path)
    save_model(module, str(tmp_path / "after"))
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()


@pytest.mark.parametrize("width", [160, 512, 4096])
def test_what_nobody_reads_takes_no_memory(tmp_path: Path, width: int) -> None:
    """Resident memory falls by most of the weights, also where a C library would keep their blocks, and they can be read."""
    torch.empty(30 * MIB, dtype=torch.uint8).fill_(1)  # once a block of this size was freed, glibc keeps all smaller ones
    count = 64 * MIB // (4 * width * width)
    module, process = nn.Sequential(*(nn.Linear(width, width) for _ in range(count))).requires_grad_(False), psutil.Process()
    before = process.memory_info().rss
    offload_weights([module], tmp_path)
    assert before - process.memory_info().rss > 40 * MIB
    assert bool(torch.isfinite(module(torch.rand(2, width))).all())


def test_what_is_trained_stays(tmp_path: Path) -> None:
    """A parameter that moves lies where it lay, also beside frozen ones."""
    module = Large()
    module.second.weight.requires_grad_(True)
    place, frozen = module.second.weight.data_ptr(), module.first.weight.data_ptr()
    offload_weights([module], tmp_path)
    assert module.second.weight.data_ptr() == place
    assert module.first.weight.data_ptr() != frozen


@pytest.mark.parametrize("shape", ["transposed", "part"])
def test_strides_and_offsets_are_kept(tmp_path: Path, shape: str) -> None:
    """A tensor that sees a part of its memory, or sees it in another order, sees the same afterwards."""
    whole = torch.rand(60, 40, 3, 3)
    module = nn.Conv2d(40, 60, 3).requires_grad_(False)
    module.weight.data = (
        whole.to(memory_format=torch.channels_last) if shape == "transposed" else torch.cat([whole, whole])[60:]
    )
    place = module.weight.data_ptr()
    exact, strides = module.weight.clone(), module.weight.stride()
    offload_weights([module], tmp_path)
    assert torch.equal(module.weight, exact)
    assert module.weight.stride() == strides
    assert module.weight.data_ptr() != place


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    """And the weights are where they were."""
    module = Large()
    places = [parameter.data_ptr() for parameter in module.parameters()]
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match="file"):
        offload_weights([module], tmp_path / "file")
    assert places == [parameter.data_ptr() for parameter in module.parameters()]


def test_teachers_rest_while_their_outputs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they ran before or all was stored, the trainer finds them paged out; they give the same outputs as before."""
    monkeypatch.setattr("compress.teachers.offload.LARGE", 1)
    exact = None
    for _ in range(2):
        method = fresh()
        asked = teachers(method, tmp_path)
        image = next(data().epoch(0)).images
        before = [parameter.data_ptr() for parameter in method.teachers.parameters()]
        asked.prepare_epoch(0)
        after = [parameter.data_ptr() for parameter in method.teachers.parameters()]
        assert not set(before) & set(after)
        asked.prepare_epoch(1)
        assert (
            after == [parameter.data_ptr() for parameter in method.teachers.parameters()]
            or asked.summarize().views_computed > 1
        )
        computed = method.teachers[0](image)
        assert exact is None or torch.equal(computed, exact)
        exact = computed


def test_teachers_stay_where_they_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs memory and a word, not the training."""

    def full(*_: object) -> int:
        raise Unreachable("the disk is full")

    monkeypatch.setattr("compress.teachers.provider.offload_weights", full)
    said = listening()
    asked = teachers(fresh(), tmp_path, events=said.events)
    asked.prepare_epoch(0)
    assert asked.get_signals(next(data().epoch(0)))
    assert "the disk is full; the teachers stay in memory" in said.text.getvalue()
