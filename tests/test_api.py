"""`compress.distill` on the user's own modules and loaders."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import compress
from compress import compiling
from compress.api import _another
from compress.errors import CompressError
from compress.methods._step import Forward
from tests.methods.test_contract import Tiny
from tests.test_compiling import Counted

TRIED = 3
"""Passes of an engine that settings name, before the first step: one that compiles, one that is timed, one that is compared."""


def loader(count: int = 64) -> DataLoader[tuple[torch.Tensor, ...]]:
    labels = torch.arange(count) % 4
    images = torch.rand(count, 1, 8, 8)
    images[torch.arange(count), 0, labels * 2] += 3  # each class has a bright row
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)


@pytest.fixture
def teacher() -> nn.Module:
    """A network that has learnt the bright rows."""
    network = Tiny(8)
    compress.distill(
        [], network, train=loader(), validation=loader(), method="supervised", settings=compress.TrainSection(epochs=5)
    )
    return network


def test_the_teacher_keeps_its_weights_and_flags_and_the_student_stays_trainable(teacher: nn.Module) -> None:
    """Nothing of the user's is left frozen, in another mode, or with other weights."""
    teacher.train()
    teacher.linear.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = Tiny(2)
    done = compress.distill(
        teacher, student, train=loader(), validation=loader(), method={"dih": {"logit_loss": "dist", "heads_epochs": 1}},
        taps=["first", "second"], settings=compress.TrainSection(epochs=1),
    )  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert [parameter.requires_grad for parameter in teacher.linear.parameters()] == [True, False]
    assert all(module.training for module in teacher.modules())
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert done.validation.samples == 64
    assert {epoch.stage for epoch in done.epochs} == {"heads", "student"}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"dih": {"reduction": "averge"}}, r"method.dih.reduction: .*'sum', 'mean' or 'single_ce'"),
        ({"dih": {"logit_loss": "KD"}}, r"method.dih.logit_loss"),
        ({"kd": {"temprature": 2}}, r"did you mean 'temperature'"),
        ({"kd": {"temperature": 0.0}}, r"greater than 0, not 0.0"),
        ({}, r"names none"),
    ],
)
def test_a_wrong_option_is_refused_as_in_a_recipe(
    teacher: nn.Module, method: dict[str, dict[str, object]], message: str
) -> None:
    """An option that would silently mean something else is an error."""
    with pytest.raises(CompressError, match=message):
        compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, taps=["first"])


def test_an_option_may_be_one_value_where_a_list_is_meant(teacher: nn.Module) -> None:
    """`alpha: 0.3` means the same here as in a recipe."""
    settings = compress.TrainSection(epochs=1)
    method = {"dih": {"alpha": 0.3, "heads_epochs": 1}}
    compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, taps=["first"], settings=settings)


def test_an_untrained_teacher_is_refused() -> None:
    """A teacher at chance teaches nothing, here as in a recipe."""
    with pytest.raises(CompressError, match=r"teacher 0: has .* not clearly more"):
        compress.distill(Tiny(8), Tiny(2), train=loader(), validation=loader())


def test_a_state_belongs_to_one_call_and_is_gone_when_it_is_done(teacher: nn.Module, tmp_path: Path) -> None:
    """Another method in the same folder does not continue from the first one's state."""
    settings = compress.TrainSection(epochs=1, state_seconds=0)
    losses = []
    for method in ("supervised", "kd"):
        done = compress.distill(
            teacher, Tiny(2), train=loader(), validation=loader(), method=method, settings=settings, state=tmp_path
        )
        losses.append(set(done.epochs[0].losses))
    assert losses == [{"ce", "total"}, {"ce", "kd", "total"}]
    assert not list(tmp_path.iterdir())


def test_the_engine_of_the_settings_runs_the_student(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is used in every step, refused where the device does not have it, and leaves no file behind."""
    settings = compress.TrainSection(epochs=1, engine="cuda_graphs", device="cpu")
    with pytest.raises(CompressError, match="'cuda_graphs' runs on a CUDA device alone"):
        compress.distill([], Tiny(2), train=loader(), validation=loader(), method="supervised", settings=settings)
    ran: list[Counted] = []

    def build(_engine: str, network: compress.Network, *_: object) -> Forward:
        ran.append(Counted(network.outputs))
        return ran[-1]

    monkeypatch.setattr(compiling, "build", build)
    settings = compress.TrainSection(epochs=2, engine="compile", state_seconds=0)
    compress.distill([], Tiny(2), train=loader(), validation=loader(), method="supervised", settings=settings, state=tmp_path)
    assert [counted.steps for counted in ran] == [TRIED + 2 * len(loader())]
    assert not list(tmp_path.iterdir())


def test_a_method_that_trains_several_students_draws_each_anew() -> None:
    """Generations of a given module start from weights of their own, the same each time."""
    student = Tiny(4)
    kinds = {name: value.clone() for name, value in student.named_parameters()}
    network = compress.Network(student, taps=())
    twin, again = (dict(_another(network, "generation1", 0).module.named_parameters()) for _ in range(2))
    other = dict(_another(network, "generation2", 0).module.named_parameters())
    for name, value in twin.items():
        assert torch.equal(value, again[name])
        assert torch.equal(kinds[name], dict(student.named_parameters())[name])
        if value.dim() > 1:
            assert not torch.equal(value, kinds[name])
            assert not torch.equal(value, other[name])


def test_sequential_distillation_works_on_own_modules(teacher: nn.Module) -> None:
    """A line of generations needs nothing but the student that was given."""
    done = compress.distill(
        teacher, compress.Network(Tiny(2), taps=("first", "second")), train=loader(), validation=loader(),
        method={"feed_sequential": {"generations": 2}}, taps=["first", "second"], settings=compress.TrainSection(epochs=1),
    )  # fmt: skip
    assert {epoch.stage for epoch in done.epochs} == {"generation1", "student"}
