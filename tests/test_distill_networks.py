"""`compress.distill` on networks and loaders that would give a wrong result without a word, or a traceback after an epoch."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, TensorDataset

import compress
from compress.events import Events
from tests.tiny import Tiny

QUICK = compress.TrainSection(epochs=1)
LABELS = torch.arange(64) % 4
IMAGES = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGES[torch.arange(64), 0, LABELS * 2] += 3  # each class has a bright row


def loader(**options: Any) -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(IMAGES, LABELS), **{"batch_size": 16, "shuffle": True, **options})


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that has learnt the bright rows."""
    torch.manual_seed(0)
    network = Tiny(8)
    settings = compress.TrainSection(epochs=20)
    compress.distill([], network, train=loader(), validation=loader(), method="supervised", settings=settings)
    return network


@pytest.fixture
def teacher(trained: nn.Module) -> nn.Module:
    """A network of each test's own that has learnt the bright rows."""
    return copy.deepcopy(trained)


class Around(nn.Module):
    """A network, run by a function of it and the images, which remembers the mean of what it was given."""

    def __init__(self, inner: nn.Module, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.run, self.means = inner, run, list[float]()

    def forward(self, images: Tensor) -> Tensor:
        self.means.append(float(images.mean()))
        return self.run(self.inner, images)


def spoil(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images.clone())
    images.fill_(7)
    return logits


def as_list() -> list[tuple[Tensor, Tensor]]:
    return [(images.clone(), labels) for images, labels in loader(shuffle=False)]


@pytest.mark.parametrize("who", ["student", "teacher", "second teacher"])
@pytest.mark.parametrize("batches", [loader, as_list], ids=["loader", "list"])
def test_a_network_that_changes_its_images_in_place_spoils_nothing(
    teacher: nn.Module, who: str, batches: Callable[[], Any]
) -> None:
    """Whoever changes its images, all others see those of the loader, and so does a list that is iterated again."""
    student, other = Tiny(2), copy.deepcopy(teacher)
    watched = Around(teacher, lambda network, images: network(images))
    data = batches()
    given = {
        "student": (watched, Around(student, spoil)),
        "teacher": ([Around(other, spoil), watched], student),
        "second teacher": ([watched, Around(other, spoil)], student),
    }[who]
    name = {"student": "student", "teacher": "teacher 0", "second teacher": "teacher 1"}[who]
    with pytest.warns(
        UserWarning, match=f"{name}: its forward pass changes its images in place, so it is given copies of them"
    ):
        done = compress.distill(given[0], given[1], train=data, validation=data, settings=QUICK)  # type: ignore[arg-type]
    mean = float(IMAGES.mean())
    assert all(abs(seen - mean) < 0.2 for seen in watched.means[-4:])  # of the steps; before them it is tried on other inputs
    assert all(abs(float(images.mean()) - mean) < 0.2 for images, _ in data)
    assert done.network.module.training is False


def test_what_is_trained_in_place_is_what_is_trained_out_of_place() -> None:
    """Copies change no number."""
    found = []
    for run in (lambda n, x: n(x.sub_(0.5).mul_(2)), lambda n, x: n((x - 0.5) * 2)):
        torch.manual_seed(3)
        student = Around(Tiny(2), run)
        done = compress.distill(
            [], student, train=as_list(), validation=as_list(), method="supervised", settings=QUICK, events=Events()
        )
        found.append(done.epochs)
    assert [epoch.losses for epoch in found[0]] == [epoch.losses for epoch in found[1]]


def test_one_that_begins_later_to_change_its_images_is_refused(teacher: nn.Module) -> None:
    """What no check before training could see ends training with the network's name."""
    calls: list[int] = []

    def run(network: nn.Module, images: Tensor) -> Tensor:
        calls.append(0)
        return network(images.sub_(1) if len(calls) > 20 else images)  # type: ignore[no-any-return]

    with pytest.raises(compress.CompressError, match=r"student: its forward pass changes its input .* in place"):
        compress.distill(
            teacher, Around(Tiny(2), run), train=loader(), validation=loader(), settings=compress.TrainSection(epochs=20)
        )


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_probabilities_are_refused_and_log_probabilities_told(teacher: nn.Module, who: str) -> None:
    """A softmax inside switches distillation off, and a log-softmax does no harm."""

    def call(end: Callable[[Tensor], Tensor], events: Events | None) -> None:
        around = Around(Tiny(2) if who == "student" else teacher, lambda network, images: end(network(images)))
        pair = (teacher, around) if who == "student" else (around, Tiny(2))
        compress.distill(*pair, train=loader(), validation=loader(), settings=QUICK, events=events)

    name = who if who == "student" else "teacher 0"
    with pytest.raises(compress.CompressError, match=f"^{name}: its outputs come out of a softmax"):
        call(lambda logits: logits.softmax(1), Events())
    with pytest.warns(UserWarning, match=f"^{name}: its outputs are log-probabilities"):
        call(lambda logits: logits.log_softmax(1), None)


def test_auxiliary_classifiers_are_refused_with_the_option_to_set() -> None:
    """The message says what to set, and set so the network is trained."""
    from torchvision import models  # behind compress, which lets it be imported without its operators

    data = [(torch.rand(4, 3, 32, 32), torch.arange(4))]
    student = models.googlenet(num_classes=4, aux_logits=True, init_weights=False)
    with pytest.raises(compress.CompressError, match=r"while it trains .* set student.aux_logits = False"):
        compress.distill([], student, train=data, validation=data, method="supervised", settings=QUICK)
    student.aux_logits = False
    compress.distill([], student, train=data, validation=data, method="supervised", settings=QUICK)


def normed() -> nn.Module:
    """Return a network that cannot be trained on a single image."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("batches", "where"),
    [
        (loader(batch_size=21), "train, batch 3: has 1 image"),
        (loader(batch_size=21, sampler=range(43), shuffle=None), "train, batch 2: has 1 image"),
        (
            loader(batch_sampler=BatchSampler(range(22), 7, drop_last=False), batch_size=1, shuffle=None),
            "train, batch 3: has 1",
        ),
        ([(IMAGES, LABELS), (IMAGES[:1], LABELS[:1]), (IMAGES, LABELS)], "train, batch 1: has 1 image"),
    ],
)
def test_a_batch_of_one_is_refused_before_training(batches: Any, where: str) -> None:
    """The message names the batch and drop_last; nothing was trained."""
    student = normed()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(compress.CompressError, match=rf"^{where}.*, .*Expected more than 1 value.*drop_last=True"):
        compress.distill([], student, train=batches, validation=loader(), method="supervised", settings=QUICK)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_batch_of_one_is_no_fault_where_it_does_no_harm() -> None:
    """A network without batch norm behind its pooling learns from one image, too; and `drop_last` needs no rehearsal."""
    for student, options in ((Tiny(2), {}), (normed(), {"drop_last": True})):
        train = loader(batch_size=21, **options)
        compress.distill([], student, train=train, validation=loader(), method="supervised", settings=QUICK)


def test_a_hook_finds_the_main_logits_beside_auxiliary_ones(teacher: nn.Module) -> None:
    """What the message proposes works: a student may give more in training than in evaluation, if its logits are named."""

    def run(network: nn.Module, images: Tensor) -> Any:
        logits = network(images)
        return (logits, logits.detach()) if network.training else logits

    options: dict[str, Any] = {"train": loader(), "validation": loader(), "settings": QUICK}
    with pytest.raises(compress.CompressError, match=r"logits=lambda output: output\[0\]"):
        compress.distill(teacher, Around(Tiny(2), run), **options)
    compress.distill(teacher, Around(Tiny(2), run), logits=lambda output: output[0], **options)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_may_teach_and_is_not_trained(teacher: nn.Module) -> None:
    """What another team handed over teaches; a student of that kind could never be exported, which is said at once."""
    options: dict[str, Any] = {"train": loader(), "validation": loader(), "settings": QUICK}
    for script in (torch.jit.script(teacher.eval()), torch.jit.trace(teacher.eval(), IMAGES[:1])):
        compress.distill(script, Tiny(2), **options)
        with pytest.raises(compress.CompressError, match=r"^student: is a TorchScript module"):
            compress.distill([], script, method="supervised", **options)
    with pytest.raises(compress.CompressError, match=r"^teacher 0: is a frozen TorchScript module"):
        compress.distill(torch.jit.freeze(torch.jit.script(teacher.eval())), Tiny(2), **options)


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_network_without_numbers_is_refused(role: str, teacher: nn.Module) -> None:
    """What was made on torch's meta device and never loaded is named, before anything is moved or trained."""
    networks = {"teacher": teacher, "student": Tiny(2)} | {role: Tiny(2).to("meta")}
    with pytest.raises(
        compress.CompressError, match=rf"^{role}.*: holds no numbers in .*, … \(torch's meta device\); load its weights"
    ):
        compress.distill(networks["teacher"], networks["student"], train=loader(), validation=loader(), settings=QUICK)


def test_a_student_with_nothing_to_train_is_refused() -> None:
    """It is not called frozen."""
    student = nn.Sequential(nn.AdaptiveAvgPool2d((1, 4)), nn.Flatten())
    with pytest.raises(compress.CompressError, match=r"^student: has no parameters, so nothing can be trained"):
        compress.distill([], student, train=loader(), validation=loader(), method="supervised", settings=QUICK)


class Growing(IterableDataset[tuple[Tensor, Tensor]]):
    """A stream whose order is another in every pass, and whose last batch nobody can foresee."""

    def __init__(self, images: int) -> None:
        self.images, self.random = images, torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for place in torch.randperm(self.images, generator=self.random).tolist():
            yield IMAGES[place], LABELS[place]


def test_an_unforeseen_batch_of_one_ends_in_one_message() -> None:
    """An error of torch in a step names epoch, step, batch and what to do."""
    train = DataLoader(Growing(33), batch_size=16)
    message = (
        r"training stopped at epoch 1, step 3 of 3, .* on images \[1, 1, 8, 8\]: Expected more than 1 value.*drop_last=True"
    )
    with pytest.raises(compress.CompressError, match=message):
        compress.distill([], normed(), train=train, validation=loader(), method="supervised", settings=QUICK)


def test_a_batch_of_another_size_ends_in_one_message() -> None:
    """Images that the network cannot take in the middle of training are named by their shape."""
    data = [(IMAGES[:, :, :8, :8], LABELS), (IMAGES[:, :, :7, :7], LABELS)]
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with pytest.raises(compress.CompressError, match=r"step 2 of 2, .* on images \[64, 1, 7, 7\]: .*look at this batch"):
        compress.distill([], student, train=data, validation=loader(), method="supervised", settings=QUICK)


def test_validation_images_that_the_student_cannot_take_are_told_before_training() -> None:
    """They would end training at the end of its first epoch."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    wrong = [(IMAGES[:, :, :7, :7], LABELS)]
    with pytest.raises(compress.CompressError, match=r"^student, validation: cannot take images \[64, 1, 7, 7\]"):
        compress.distill([], student, train=loader(), validation=wrong, method="supervised", settings=QUICK)


@pytest.mark.parametrize(
    "held_out",
    [
        loader(generator=torch.Generator().manual_seed(3)),
        DataLoader(Growing(64), batch_size=16),
    ],
    ids=["a generator of its own", "a stream"],
)
def test_a_validation_loader_may_shuffle_as_it_likes(teacher: nn.Module, held_out: Any) -> None:
    """Logits and labels come from one pass, so a good teacher is one in whatever order."""
    done = compress.distill([teacher, copy.deepcopy(teacher)], Tiny(2), train=loader(), validation=held_out, settings=QUICK)
    assert done.validation.samples == 64


def test_a_network_with_old_weight_norm_is_trained_with_an_average_and_copied_afterwards(teacher: nn.Module) -> None:
    """Its computed weight is no obstacle: for the average of weights, for copies, and afterwards."""
    with pytest.warns(FutureWarning, match=re.escape("`torch.nn.utils.weight_norm` is deprecated")):
        first = nn.utils.weight_norm(nn.Conv2d(1, 4, 3))
    student = nn.Sequential(first, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))
    done = compress.distill(
        teacher, student, train=loader(), validation=loader(), settings=compress.TrainSection(epochs=1, ema_decay=0.9)
    )
    copy.deepcopy(done.network)


def test_a_compiled_teacher_teaches(teacher: nn.Module) -> None:
    """What `torch.compile` gave is taken for the network inside, whose layers can be watched."""
    settings = compress.TrainSection(epochs=1)
    compiled: Any = torch.compile(teacher, backend="eager")
    compress.distill(compiled, Tiny(2), train=loader(), validation=loader(), settings=settings, events=Events())


def test_a_teacher_of_no_classes_is_refused(teacher: nn.Module) -> None:
    """Logits without a class are none."""
    empty = Around(teacher, lambda network, images: network(images)[:, :0])
    with pytest.raises(compress.CompressError, match=r"teacher 0: gives .*\[4, 0\].*; it must give logits|gives 0 classes"):
        compress.distill(empty, Tiny(2), train=loader(), validation=loader(), settings=QUICK)
