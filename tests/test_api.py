"""`compress.distill` on the user's own modules and loaders."""

from __future__ import annotations

import copy
import gc
import io
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import compress
from compress.api import _redraw
from compress.errors import CompressError
from compress.events import Events
from compress.methods import Forward
from compress.recipe.types import Section
from tests.tiny import TRIED, Counted, Tiny


def loader(count: int = 64) -> DataLoader[tuple[torch.Tensor, ...]]:
    labels = torch.arange(count) % 4
    images = torch.rand(count, 1, 8, 8)
    images[torch.arange(count), 0, labels * 2] += 3  # each class has a bright row
    return DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    """A network that has learnt the bright rows."""
    torch.manual_seed(0)
    network = Tiny(8)
    compress.distill(
        [], network, train=loader(), validation=loader(), method="supervised", settings=compress.TrainSection(epochs=5)
    )
    return network


@pytest.fixture
def teacher(trained: nn.Module) -> nn.Module:
    """A network of each test's own that has learnt the bright rows."""
    return copy.deepcopy(trained)


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


def test_a_call_leaves_nothing_behind(teacher: nn.Module) -> None:
    """Who distils a thousand times in one process does not run out of memory: no types and no objects stay."""
    settings = compress.TrainSection(epochs=1)

    def distil() -> int:
        compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method="kd", settings=settings)
        gc.collect()
        return len(gc.get_objects())

    def count_types(base: type) -> int:
        return sum(1 + count_types(each) for each in base.__subclasses__())

    distil()
    before, types = distil(), count_types(Section)
    after = [distil() for _ in range(3)][-1]
    assert count_types(Section) == types
    assert after - before < 150  # of the 1,270 a call that there were


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"dih": {"reduction": "averge"}}, r"method.dih.reduction: .*'sum', 'mean' or 'single_ce'"),
        ({"dih": {"logit_loss": "KD"}}, r"method.dih.logit_loss"),
        ({"kd": {"temprature": 2}}, r"did you mean 'temperature'"),
        ({"kd": {"temperature": 0.0}}, r"greater than 0, not 0.0"),
        ({}, r"names none"),
        ([], r"names none"),
        ({"kd": None}, r"method.kd: has options None; give a mapping"),
        ({"kd": {1: 2}}, r"there is no option 1"),
        (["kd", "kd"], r"names 'kd' twice"),
        (["kd", 3], r"method: is a int; give a name"),
        (None, r"method: is a NoneType; give a name"),
        ([{"name": "kd", "temprature": 2}], r"did you mean 'temperature'"),
    ],
)
def test_a_wrong_option_is_refused_as_in_a_recipe(
    teacher: nn.Module, method: dict[str, dict[str, object]], message: str
) -> None:
    """An option that would silently mean something else is an error."""
    with pytest.raises(CompressError, match=message):
        compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, taps=["first"])


def test_an_option_may_be_one_value_where_a_list_is_meant(teacher: nn.Module) -> None:
    """`alpha: 0.3` means the same here as in a recipe, and the same as `alpha: [0.3]`."""
    settings, data, losses = compress.TrainSection(epochs=1), loader(), []
    for alpha in (0.3, [0.3]):
        torch.manual_seed(0)
        done = compress.distill(
            teacher, Tiny(2), train=data, validation=data, method={"dih": {"alpha": alpha, "heads_epochs": 1}},
            taps=["first"], settings=settings,
        )  # fmt: skip
        losses.append([epoch.losses for epoch in done.epochs])
    assert losses[0] == losses[1]


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
            teacher, Tiny(2), train=loader(), validation=loader(), method=method, settings=settings, state=str(tmp_path)
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

    monkeypatch.setattr("compress.training.engines.compile_network", build)
    settings = compress.TrainSection(epochs=2, engine="compile", state_seconds=0)
    compress.distill([], Tiny(2), train=loader(), validation=loader(), method="supervised", settings=settings, state=tmp_path)
    assert [counted.steps for counted in ran] == [TRIED + 2 * len(loader())]
    assert not list(tmp_path.iterdir())


def test_a_method_that_trains_several_students_draws_each_anew() -> None:
    """Generations of a given module start from weights of their own, the same each time."""
    student = Tiny(4)
    kinds = {name: value.clone() for name, value in student.named_parameters()}
    network = compress.Network(student, taps=())
    twin, again = (dict(_redraw(network, "generation1", 0).module.named_parameters()) for _ in range(2))
    other = dict(_redraw(network, "generation2", 0).module.named_parameters())
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


QUICK = compress.TrainSection(epochs=1)


@pytest.mark.parametrize(
    "method", [["kd", "dist"], ["kd", {"dist": {"inter_weight": 2.0}}], [{"name": "kd"}, {"name": "dist", "inter_weight": 2.0}]]
)
def test_methods_may_stand_in_a_list(teacher: nn.Module, method: list[object]) -> None:
    """Names, names with their options, and the entries of a recipe are combined as a mapping of names is."""
    done = compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, settings=QUICK)  # type: ignore[arg-type]
    assert {"kd.kd", "dist.inter"} <= set(done.epochs[0].losses)


def test_one_tap_is_a_name_and_not_its_letters(teacher: nn.Module) -> None:
    """`taps="first"` is the submodule `first`."""
    method = {"dih": {"heads_epochs": 1}}
    done = compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, taps="first", settings=QUICK)
    assert {epoch.stage for epoch in done.epochs} == {"heads", "student"}


@pytest.mark.parametrize("method", ["kd", {"fitnet": {}}, {"feed": {}}, {"dskd": {}}])
def test_what_the_user_froze_stays_as_it_is(teacher: nn.Module, method: str | dict[str, dict[str, object]]) -> None:
    """Frozen weights, and the statistics of layers that hold nothing else, are the same before and after; the rest learns."""
    student = Tiny(2)
    student.first.requires_grad_(False)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    compress.distill(
        teacher, student, train=loader(), validation=loader(), method=method, taps=["first", "second"], settings=QUICK
    )
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed >= {"second.0.weight", "second.1.running_mean", "linear.weight"}
    assert not [name for name in changed if name.startswith("first.")]
    assert [parameter.requires_grad for parameter in student.first.parameters()] == [False] * 3


def test_a_student_that_is_frozen_whole_is_refused() -> None:
    """There is nothing to train, and the call says so before it does anything."""
    with pytest.raises(CompressError, match=r"student: all of its \d+ parameters are frozen.*requires_grad_"):
        compress.distill([], Tiny(2).requires_grad_(False), train=loader(), validation=loader(), method="supervised")


def test_generations_share_what_the_user_froze(teacher: nn.Module) -> None:
    """A fresh student of a line has the frozen layers of the one that was given, and other weights elsewhere."""
    student = compress.Network(Tiny(2), taps=())
    student.fixed = frozenset({"first.0.weight"})
    twin = _redraw(student, "generation1", 0)
    assert torch.equal(twin.module.first[0].weight, student.module.first[0].weight)
    assert not torch.equal(twin.module.second[0].weight, student.module.second[0].weight)


IMAGES, LABELS = torch.rand(8, 1, 8, 8), torch.arange(8) % 4


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """A data set that tells no length: that of some images, or without an end."""

    def __init__(self, images: int | None) -> None:
        self.images = images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        pairs = list(zip(IMAGES, LABELS, strict=True))
        return cycle(pairs) if self.images is None else iter(pairs[: self.images])


class Shrinking(Stream):
    """A stream that gives less in each pass than in the one before."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.images = (self.images or 0) - 1
        return super().__iter__()


class Lying(list[object]):
    """A loader that gives fewer batches than its length."""

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        ([], "has no batches"),
        (iter([]), "is a list_iterator, which gives its batches once; give a list or a DataLoader"),
        (None, "is a NoneType, which is no loader; give a list or a DataLoader"),
        (DataLoader(Stream(0), batch_size=4), "has no batches"),
        (DataLoader(Stream(None), batch_size=4), "the DataLoader of Stream has no length, and more than 10,000 batches"),
        ([(IMAGES, LABELS + 1)], "has label 4, and the student gives 4 classes"),
        ([(IMAGES, LABELS - 1)], "has label -1"),
        ([(IMAGES, LABELS.float())], r"labels are float32 \[8\]; .* int64 \[8\]; labels.long\(\) makes them so"),
        ([(IMAGES, LABELS[:, None, None].expand(8, 8, 8))], r"labels are int64 \[8, 8, 8\]; .* one-hot"),
        ([(IMAGES, torch.ones(8, 4))], r"image 0 are no shares that sum to 1 \(their sum is 4\).*several at once"),
        ([(IMAGES, torch.ones(8, 4) - nn.functional.one_hot(LABELS) * 3)], "are no shares"),
        ([(IMAGES, LABELS[:7])], r"labels are int64 \[7\]"),
        ([((255 * IMAGES).byte(), LABELS)], r"images are uint8 \[8, 1, 8, 8\]; give float32"),
        ([(IMAGES[0], LABELS)], r"images are float32 \[1, 8, 8\]"),
        ([(IMAGES[:0], LABELS[:0])], r"images are float32 \[0, 1, 8, 8\]"),
        (
            [{"images": IMAGES, "labels": LABELS}],
            r"is a dict of 'images', 'labels'; give a pair of tensors .*\(batch\['images'\], batch\[",
        ),
        ([(IMAGES, LABELS, LABELS)], "is a tuple of Tensor, Tensor, Tensor; give a pair"),
        ([(IMAGES.numpy(), LABELS.numpy())], "is a tuple of ndarray, ndarray; give a pair"),
        ([IMAGES], "is a Tensor; give a pair"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_loader_that_does_not_fit_is_refused_before_training(which: str, batches: object, said: str) -> None:
    """Whatever a loader gives instead of images and labels is one message that names the loader, and nothing is trained."""
    student = Tiny(2)
    before = student.linear.weight.detach().clone()
    loaders = {"train": loader(), "validation": loader(), which: batches}
    with pytest.raises(CompressError, match=rf"^{which}.*: .*{said}"):
        compress.distill([], student, **loaders, method="supervised", settings=QUICK)  # type: ignore[arg-type]
    assert torch.equal(student.linear.weight, before)


def test_streams_without_a_length_are_counted() -> None:
    """A loader of a stream trains to the same numbers as a list of its batches, and the caller is told what was counted."""
    text = io.StringIO()
    results = []
    for train in ([(IMAGES[:4], LABELS[:4]), (IMAGES[4:6], LABELS[4:6])], DataLoader(Stream(6), batch_size=4)):
        torch.manual_seed(0)
        student, events = Tiny(2), Events(console=Console(file=text, width=200))
        compress.distill([], student, train=train, validation=loader(), method="supervised", settings=QUICK, events=events)
        results.append(student.linear.weight.detach())
    assert torch.equal(*results)
    assert text.getvalue().count("train: has no length; 2 batches were counted in one pass over it") == 1


def test_a_stream_that_gives_less_in_a_later_pass_is_named() -> None:
    """It is no matter of a length, which it does not have."""
    train = DataLoader(Shrinking(6), batch_size=1)
    with pytest.raises(CompressError, match=r"train: gave \d batches, and gave 5 in its first pass; let each"):
        compress.distill([], Tiny(2), train=train, validation=loader(), method="supervised", settings=QUICK)


def test_a_later_batch_with_a_wrong_label_is_named() -> None:
    """A label that no class has does not end in an error of the loss."""
    train = [(IMAGES, LABELS), (IMAGES, LABELS + 3)]
    with pytest.raises(CompressError, match="train, batch 1: has label 6"):
        compress.distill([], Tiny(2), train=train, validation=loader(), method="supervised", settings=QUICK)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_a_loader_that_ends_before_its_length_is_named(which: str) -> None:
    """A length that is too large is said to be so, and not an error of the iteration."""
    loaders = {"train": loader(), "validation": loader(), which: Lying([(IMAGES, LABELS)])}
    with pytest.raises(CompressError, match=f"{which}: gave 1 batches, and its length says 3"):
        compress.distill([], Tiny(2), **loaders, method="supervised", settings=QUICK)  # type: ignore[arg-type]


class Tuple(nn.Module):
    """A network that gives its logits in a tuple, as many libraries' do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Tiny(2)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.inner(images),)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teacher": None}, "teacher: is a NoneType; give a module"),
        ({"teacher": [Tiny(2), "resnet"]}, "teacher 1: is a str; give a torch.nn.Module"),
        ({"teacher": Tuple()}, r"teacher 0: gives a tuple; it must give logits .* logits=lambda output: output\[0\]"),
        ({"student": Tuple()}, r"student: gives a tuple; it must give logits"),
        ({"student": nn.Conv2d(1, 4, 8)}, r"student: gives \[1, 4, 1, 1\]; it must give logits"),
        ({"student": nn.Conv2d(3, 4, 8)}, r"student: cannot take images \[1, 1, 8, 8\]"),
        ({"student": None}, "student: is a NoneType"),
        ({"settings": {"epochs": 1}}, r"settings: is a dict; give compress.TrainSection"),
    ],
)
def test_networks_and_settings_of_another_kind_are_refused(given: dict[str, object], said: str) -> None:
    """One message names the argument, and what to give instead."""
    arguments = {"teacher": [], "student": Tiny(2), "method": "supervised", "settings": QUICK, **given}
    with pytest.raises(compress.CompressError, match=said):
        compress.distill(**arguments, train=loader(), validation=loader())  # type: ignore[arg-type]


class Output(dict[str, torch.Tensor]):
    """What many libraries' networks give: a mapping whose items are attributes, too."""

    @property
    def logits(self) -> torch.Tensor:
        return self["logits"]


class Talkative(nn.Module):
    """A network that gives more than its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> Output:
        return Output(logits=self.inner(images), hidden=images)


def test_batches_and_outputs_of_other_libraries_need_a_hook_alone(teacher: nn.Module) -> None:
    """`unpack` reads a batch of any form, `logits` what a network gives; what is shipped gives logits."""
    batches = [{"pixel_values": images, "labels": labels} for images, labels in loader()]
    student = Talkative(Tiny(2))
    for method in ("kd", {"dih": {"heads_epochs": 1}}, "simkd", "atsc"):
        done = compress.distill(
            Talkative(teacher), student, train=batches, validation=batches, method=method, settings=QUICK,
            unpack=lambda batch: (batch["pixel_values"], batch["labels"]), logits=lambda output: output.logits,
        )  # fmt: skip
        assert done.network(IMAGES).shape == (8, 4)


@pytest.mark.parametrize(
    ("hooks", "said"),
    [
        ({"unpack": lambda batch: (batch["x"], batch["y"])}, r"train, batch 0: unpack fails on a list of Tensor, Tensor \(T"),
        ({"unpack": lambda batch: batch[0]}, "train, batch 0: is a Tensor; give a pair"),
        ({"unpack": "images"}, "unpack: is a str; give a function"),
        ({"optimizer": lambda _: None}, "optimizer: returned a NoneType for phase 'student'; return a torch.optim"),
        ({"optimizer": lambda _: torch.optim.SGD(Tiny(2).parameters())}, "holds parameters that are not among those"),
        ({"student": Talkative(Tiny(2)), "logits": lambda output: output["scores"]}, r"student: logits= fails .*KeyError"),
        ({"student": Talkative(Tiny(2))}, r"student: gives a Output; .* logits=lambda output: output\['logits'\]"),
    ],
)  # fmt: skip
def test_a_hook_that_does_not_fit_is_named(hooks: dict[str, object], said: str) -> None:
    """One message says which hook, and what it met."""
    arguments = {"student": Tiny(2), **hooks}
    with pytest.raises(CompressError, match=said):
        compress.distill([], train=loader(), validation=loader(), method="supervised", settings=QUICK, **arguments)  # type: ignore[arg-type]


LABEL_FORMS = {
    "int32": lambda labels: labels.int(), "uint8": lambda labels: labels.byte(), "column": lambda labels: labels[:, None],
    "one-hot": nn.functional.one_hot, "one-hot float": lambda labels: nn.functional.one_hot(labels).float(),
}  # fmt: skip


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_in_any_exact_form_mean_the_same(form: str) -> None:
    """Integers of any size, a column of them and one-hot rows train to the same bytes as int64."""
    batches = list(loader())
    losses = []
    for write in (lambda labels: labels, LABEL_FORMS[form]):
        torch.manual_seed(0)
        given = [(images, write(labels)) for images, labels in batches]
        done = compress.distill([], Tiny(2), train=given, validation=given, method="supervised", settings=QUICK)
        losses.append(done.epochs[0].losses)
    assert losses[0] == losses[1]


def test_shares_of_classes_are_trained_as_they_are(teacher: nn.Module) -> None:
    """Labels that are mixed or smoothed are the target of the cross-entropy, and their largest share counts for accuracy."""
    batches = [(images, 0.9 * nn.functional.one_hot(labels) + 0.025) for images, labels in loader()]
    losses = []
    for smoothing, data in ((0.0, batches), (0.1, list(loader()))):
        torch.manual_seed(0)
        method = {"supervised": {"label_smoothing": smoothing}}
        settings = compress.TrainSection(epochs=1, lr=1e-9)
        done = compress.distill([], Tiny(2), train=data, validation=data, method=method, settings=settings)
        losses.append(done.epochs[0].losses["ce"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # of other batches, for the loader shuffles
    done = compress.distill(teacher, Tiny(2), train=batches, validation=batches, settings=QUICK)
    assert done.validation.samples == 64
    five = [(IMAGES, torch.full((8, 5), 0.2))]
    with pytest.raises(CompressError, match="train: labels are shares of 5 classes, and the student gives 4"):
        compress.distill([], Tiny(2), train=five, validation=loader(), method="supervised", settings=QUICK)


def test_an_optimizer_of_the_users_own_trains_what_it_holds() -> None:
    """Its learning rates are those of its groups times the schedule, and what it leaves out keeps its weights."""
    student, made = Tiny(2), []
    first = {id(parameter) for parameter in student.first.parameters()}

    def build(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        held = [each for each in parameters if id(each) not in first]
        made.append(torch.optim.AdamW([{"params": held[:1], "lr": 0.5}, {"params": held[1:]}], lr=0.01))
        return made[-1]

    before = student.first[0].weight.detach().clone()
    settings = compress.TrainSection(epochs=2, schedule="step", milestones=(0.5,), decay=0.1)
    compress.distill([], student, train=loader(), validation=loader(), method="supervised", settings=settings, optimizer=build)
    (optimizer,) = made
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.001])
    assert torch.equal(student.first[0].weight, before)


def test_maps_and_classifier_of_plain_modules_are_found(teacher: nn.Module) -> None:
    """Methods on feature maps and on the classifier need no names: the last map of each resolution is tapped."""
    for method in ("simkd", "fitnet", "attention_transfer", {"dih": {"heads_epochs": 1}}):
        compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), method=method, settings=QUICK)


def test_a_call_leaves_no_types_behind(teacher: nn.Module) -> None:
    """Types that check options are built once and not for each call."""
    from compress.recipe.sections import MethodSection

    compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), settings=QUICK)
    before = len(MethodSection.__subclasses__())
    compress.distill(teacher, Tiny(2), train=loader(), validation=loader(), settings=QUICK)
    assert len(MethodSection.__subclasses__()) == before
