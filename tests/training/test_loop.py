"""The training loop: what it minimises, keeps, refuses, and continues from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.data import FromLoader, InMemory
from compress.errors import CompressError, Interrupted
from compress.methods import Method, Step
from compress.recipe import TrainSection
from compress.training import loop
from compress.training.optimizer import compute_learning_rate
from tests.tiny import CPU, PREPROCESS, data, fresh, held_out, setting, split, weights


@pytest.mark.parametrize("name", ["supervised", "kd", "dih"])
@pytest.mark.parametrize(
    "extra", [{}, {"ema_decay": 0.9}, {"optimizer": "adamw", "precision": "bf16"}], ids=["sgd", "ema", "adamw"]
)
@pytest.mark.parametrize("stop_after", [1, 5, 9])
def test_training_that_is_stopped_anywhere_continues_to_the_same_bytes(
    tmp_path: Path, name: str, extra: dict[str, object], stop_after: int
) -> None:
    """Stopped after any step, in the middle of an epoch or at its end, and continued by a new process's objects: bit-equal."""
    settings = TrainSection(epochs=3, batch_size=16, **extra)  # type: ignore[arg-type]
    whole = fresh(name)
    kept = loop.fit(whole, data(), held_out(), settings=settings, seed=7)
    first = fresh(name)
    counter = itertools.count(1)
    with pytest.raises(Interrupted):
        loop.fit(
            first,
            data(),
            held_out(),
            settings=settings,
            seed=7,
            state=tmp_path / "s",
            stopped=lambda: next(counter) == stop_after,
        )
    torch.manual_seed(12345)  # whatever happened in between must not matter
    torch.rand(3)
    second = fresh(name)
    with torch.no_grad():
        for parameter in second.student.parameters():
            parameter.zero_()
    continued = loop.fit(second, data(), held_out(), settings=settings, seed=99, state=tmp_path / "s")
    for key, value in weights(whole).items():
        assert torch.equal(value, second.state_dict()[key]), key
    assert [epoch.losses for epoch in kept.epochs] == [epoch.losses for epoch in continued.epochs]
    assert kept.best_epoch == continued.best_epoch


def test_the_best_epoch_is_shipped_and_the_last_when_asked() -> None:
    """`select: best` leaves the weights with the best validation top-1, `last` those of the end."""
    best = loop.fit(fresh(), data(), held_out(), settings=TrainSection(epochs=4, lr=0.3, batch_size=16))
    scores = [epoch.validation_percent or 0.0 for epoch in best.epochs]
    assert best.best_epoch == scores.index(max(scores)) + 1
    assert best.validation["student"].top1_percent == max(scores)
    last = loop.fit(fresh(), data(), held_out(), settings=TrainSection(epochs=4, lr=0.3, batch_size=16, select="last"))
    assert last.best_epoch == 4


def test_a_loss_that_is_not_finite_names_the_term_and_the_step() -> None:
    """Training stops at the first bad step and says which term, where, and what to do."""

    class Broken(type(fresh("kd"))):  # type: ignore[misc]
        calls = 0

        def losses(self, step: Step) -> dict[str, Tensor]:
            Broken.calls += 1
            terms: dict[str, Tensor] = super().losses(step)
            return {**terms, "kd": terms["kd"] * float("nan")} if Broken.calls == 3 else terms

    with pytest.raises(CompressError, match=r"epoch 1, step 3 of 4, phase 'student': kd = nan is not finite; lower train.lr"):
        loop.fit(Broken(setting()), data(), held_out(), settings=TrainSection(epochs=1, batch_size=16))


def test_images_that_are_not_finite_are_suspected_before_the_learning_rate() -> None:
    """A loss that is not finite before any weight has moved is blamed on what goes in."""
    first = next(iter(data().epoch(0)))
    broken = FromLoader([(first.images * float("nan"), first.labels)] * 4, device=CPU)
    with pytest.raises(CompressError, match=r"step 1 of 4.* is not finite; look for what is not finite in the images"):
        loop.fit(fresh(), broken, held_out(), settings=TrainSection(epochs=1, batch_size=16))


def test_the_average_of_the_weights_is_what_is_validated_and_shipped() -> None:
    """With an average of decay near 1 the shipped weights stay near the start, whatever training does."""
    method = fresh()
    start = weights(method)["student.module.linear.weight"]
    settings = TrainSection(epochs=1, lr=0.2, batch_size=16, ema_decay=0.999)
    loop.fit(method, data(), held_out(), settings=settings)
    plain = fresh()
    loop.fit(plain, data(), held_out(), settings=settings.model_copy(update={"ema_decay": None}))
    moved = (weights(plain)["student.module.linear.weight"] - start).norm()
    averaged = (weights(method)["student.module.linear.weight"] - start).norm()
    assert averaged < 0.5 * moved  # the average starts at the weights after the first of four steps


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_learning_rate_warms_up_and_never_rises_afterwards(schedule: str) -> None:
    """Linear warm-up to the stated rate, then a schedule that only falls."""
    settings = TrainSection(epochs=8, lr=0.1, schedule=schedule, warmup_epochs=2, milestones=(0.5, 0.75))  # type: ignore[arg-type]
    rates = [compute_learning_rate(settings, step, 10) for step in range(80)]
    assert rates[0] < rates[10] < rates[19] < 0.1
    assert rates[20] == pytest.approx(0.1)
    assert all(late <= early for early, late in itertools.pairwise(rates[20:]))
    expected = {"cosine": 0.0, "step": 0.001, "constant": 0.1}[schedule]
    assert rates[-1] == pytest.approx(expected, abs=1e-3 if schedule == "cosine" else 1e-12)


def test_phases_are_updated_in_order_each_with_its_own_gradient() -> None:
    """A method with two phases updates the first, then the second from a fresh forward pass; neither touches the other."""
    seen: list[tuple[str, bool, bool]] = []

    class Two(Method):
        def phases(self) -> dict[str, list[nn.Parameter]]:
            head = list(self.student.classifier.parameters())
            held = {id(parameter) for parameter in head}
            return {"body": [p for p in self.student.parameters() if id(p) not in held], "head": head}

        def losses(self, step: Step) -> dict[str, Tensor]:
            seen.append((step.phase, self.student.classifier.weight.requires_grad, step.student.features[0].requires_grad))
            return {"ce": nn.functional.cross_entropy(step.student.logits, step.batch.labels)}

    method = Two(setting())
    start = weights(method)
    fit = loop.fit(method, data(), held_out(), settings=TrainSection(epochs=1, batch_size=16))
    assert seen[:2] == [("body", False, True), ("head", True, False)]
    assert set(fit.epochs[0].losses) == {"body.ce", "head.ce", "total"}
    assert not torch.equal(start["student.module.linear.weight"], method.student.classifier.weight)


def test_order_and_augmentation_depend_on_seed_and_epoch_alone() -> None:
    """The same epoch gives the same pixels, from any batch on; another epoch or seed gives others."""
    whole = list(data().epoch(4))
    tail = list(data().epoch(4, 2))
    assert len(whole) == 4
    for one, other in zip(whole[2:], tail, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
    assert not torch.equal(whole[0].images, next(data().epoch(5)).images)


def test_every_training_image_is_seen_once_per_epoch_and_evaluation_sees_all_in_order() -> None:
    """Shuffling is a permutation with the incomplete batch dropped; evaluation drops nothing."""
    batches = InMemory(split(), PREPROCESS, batch_size=7, device=CPU, shuffle=True)
    rows = torch.cat([batch.images for batch in batches.epoch(0)])
    assert len(torch.unique(rows, dim=0)) == 70
    plain = InMemory(split(), PREPROCESS, batch_size=32, device=CPU)
    assert torch.equal(torch.cat([batch.labels for batch in plain.epoch(0)]), torch.from_numpy(split().labels))


def test_a_crop_is_a_window_of_the_reflected_image() -> None:
    """Every augmented image occurs among the windows of its own padded image, mirrored or not."""
    source = InMemory(split(), PREPROCESS, batch_size=70, device=CPU)
    images = next(source.epoch(0)).images
    windows = [
        torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")[:, :, row : row + 8, column : column + 8]
        for row in range(3)
        for column in range(3)
    ]
    known = {array.numpy().tobytes() for window in windows for array in (*window, *window.flip(3))}
    augmented = next(data(size=70).epoch(0)).images
    assert all(image.numpy().tobytes() in known for image in augmented)
    assert not torch.equal(augmented.sort(dim=0).values, images.sort(dim=0).values)


def test_a_users_loader_is_seeded_by_epoch_and_leaves_the_global_generator_alone() -> None:
    """A shuffling DataLoader gives the same order for one epoch, from any batch on, and other randomness is undisturbed."""
    dataset = torch.utils.data.TensorDataset(torch.arange(40.0).view(40, 1, 1, 1), torch.arange(40) % 4)
    loader = FromLoader(torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True), device=CPU, seed=5)
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)

    def order(epoch: int, start: int = 0) -> Iterator[Tensor]:
        return (batch.images.flatten() for batch in loader.epoch(epoch, start))

    first = list(order(2))
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(torch.stack(first), torch.stack(list(order(2))))
    assert torch.equal(torch.stack(first[3:]), torch.stack(list(order(2, 3))))
    assert not torch.equal(torch.stack(first), torch.stack(list(order(3))))


def test_a_stop_after_the_last_step_is_heeded_and_loses_nothing(tmp_path: Path) -> None:
    """Ctrl-C while the last epoch is validated ends the run, and the same call then finds all epochs done."""
    settings, calls = TrainSection(epochs=2, batch_size=16), itertools.count(1)
    plain = fresh()
    loop.fit(plain, data(), held_out(), settings=settings)
    steps = 2 * len(data()) + 2  # one look after each step and one after each epoch
    stopped = fresh()
    with pytest.raises(Interrupted, match="after epoch 2"):
        loop.fit(stopped, data(), held_out(), settings=settings, state=tmp_path / "state", stopped=lambda: next(calls) == steps)
    again = fresh()
    loop.fit(again, data(), held_out(), settings=settings, state=tmp_path / "state")
    for name, value in weights(plain).items():
        assert torch.equal(value, weights(again)[name]), name
