"""The cohort of heads: its sum, its members, what is kept of it, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compress import freezing
from compress.data import Batch
from compress.errors import CompressError
from compress.methods import Setting
from compress.methods._heads.layers import StandardisedLinear, build_head
from compress.methods._heads.stage import Heads
from compress.methods.dih import Dih
from compress.models import Network
from compress.recipe import TrainSection
from compress.statistics.calibration import fit_temperature
from compress.training import loop, preflight
from tests.losses import reference
from tests.tiny import Repeated, batch, setting, tiny


class Tokens(nn.Module):
    """A network of another family: patches become tokens [B, t, c], then one vector [B, c]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 6, 2, stride=2)
        self.mix = nn.Sequential(nn.Flatten(2), nn.Linear(16, 20), nn.ReLU())
        self.block = nn.Linear(6, 10)
        self.pooled = nn.Identity()
        self.linear = nn.Linear(10, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.block(self.mix(self.patches(images)).transpose(1, 2))  # [B, 20, 10]
        logits: Tensor = self.linear(self.pooled(tokens.mean(dim=1)))
        return logits


def families() -> Setting:
    """Return two teachers that share no tap: one with maps, one with a map, tokens and a vector."""
    tokens = Network(Tokens(), taps=("patches", "block", "pooled"), classifier="linear")
    return Setting(tiny(2), (tiny(8), tokens), torch.zeros(1, 1, 8, 8), 4)


def build(where: Setting, **options: Any) -> Dih:
    """Return the method as it is while the student is trained."""
    method = Dih(where, **options)
    freezing.freeze_all_but(method, method.phases()["student"])
    return method.eval()


def array(tensor: Tensor) -> reference.Array:
    return tensor.detach().double().numpy()


def cross_entropy(logits: reference.Array, labels: Tensor) -> float:
    return float(-reference.log_softmax(logits)[np.arange(len(labels)), labels.numpy()].mean())


@pytest.mark.parametrize("logit_loss", ["kd", "dist"])
@pytest.mark.parametrize("reduction", ["sum", "mean", "single_ce"])
@pytest.mark.parametrize("alpha", [(0.1,), (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)])
@pytest.mark.parametrize("teachers", [1, 2])
def test_every_reduction_is_that_of_the_equation(
    teachers: int, alpha: tuple[float, ...], reduction: Literal["sum", "mean", "single_ce"], logit_loss: Literal["kd", "dist"]
) -> None:
    """Terms equal an independent implementation: of the code's sum, of its mean over members, and with the labels once."""
    given = alpha[: 3 * teachers] if len(alpha) > 1 else alpha
    method = build(setting(teachers), logit_loss=logit_loss, temperature=3.0, alpha=given, reduction=reduction)
    data = batch()
    step = method.step(data)
    terms = method(step)
    student = array(step.student.logits)
    cohort = {name: array(logits) for name, logits in method.heads_stage.compute_cohort(step, method.alpha).items()}
    weights = dict(zip(cohort, given if len(given) > 1 else given * len(cohort), strict=True))
    own = reference.kd if logit_loss == "kd" else reference.dist
    expected = {f"{logit_loss}.{name}": weights[name] * own(student, logits, 3.0) for name, logits in cohort.items()}
    expected["ce"] = sum(1 - weight for weight in weights.values()) * cross_entropy(student, data.labels)
    if reduction == "mean":
        expected = {name: value / len(cohort) for name, value in expected.items()}
    if reduction == "single_ce":
        expected["ce"] /= len(cohort)
    assert len(cohort) == 3 * teachers
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)  # float32


def test_the_cohort_is_each_teacher_and_its_heads_from_shallow_to_deep() -> None:
    """Names and order of the members, which is the order of alpha."""
    assert list(build(setting()).alpha) == ["teacher", "head0", "head1"]
    assert list(build(setting(2)).alpha) == [
        "teacher0", "teacher0_head0", "teacher0_head1", "teacher1", "teacher1_head0", "teacher1_head1",
    ]  # fmt: skip


def test_members_are_chosen_by_name_and_take_their_share_of_the_labels_with_them() -> None:
    """Who is not named neither teaches nor brings a cross-entropy, and is not even computed; alpha follows the names."""
    data = batch()
    method = build(setting(), members=("head1", "teacher"), alpha=(0.4, 0.2))
    step = method.step(data)
    terms = method(step)
    assert list(terms) == ["ce", "dist.head1", "dist.teacher"]
    assert method.alpha == {"head1": 0.4, "teacher": 0.2}
    expected = (0.6 + 0.8) / 2 * cross_entropy(array(step.student.logits), data.labels)
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-5)
    assert [(signal.teacher, signal.tap) for signal in step.signals_read] == [(0, 1), (0, None)]


def test_heads_that_do_not_teach_are_trained_and_reported_all_the_same() -> None:
    """Who teaches does not change the first stage, so that its result serves every choice of members."""
    chosen, everybody = Dih(setting(), members=("head1",)), Dih(setting())
    assert chosen.stages()[0].identity() == everybody.stages()[0].identity()
    data = batch()
    terms = chosen.stages()[0](chosen.stages()[0].step(data))
    assert set(terms) == {"ce.head0", "ce.head1"}


def test_heads_that_differ_are_other_heads() -> None:
    """Other taps and another kind of head change what identifies the first stage, so that no cache mixes them up."""
    options: list[dict[str, Any]] = [
        {},
        {"taps": ("first",)},
        {"taps": ("second",)},
        {"head": "gap"},
        {"head": "flatten"},
        {"standardise": False},
        {"calibrate": False},
    ]
    assert len({str(Dih(setting(), **each).stages()[0].identity()) for each in options}) == len(options)


def test_heads_are_trained_as_linear_probes_whatever_the_student_needs() -> None:
    """Their epochs, rate and weight decay are their own, by cosine from the first step on; the rest is the recipe's."""
    recipe = TrainSection(
        epochs=200, lr=0.5, schedule="step", optimizer="adamw", warmup_epochs=3, ema_decay=0.9, batch_size=7, weight_decay=0.3
    )
    found = Dih(setting(), heads_epochs=9, heads_lr=0.02).stages()[0].schedule(recipe)
    assert (found.epochs, found.lr, found.schedule, found.optimizer) == (9, 0.02, "cosine", "sgd")
    assert (found.warmup_epochs, found.ema_decay) == (0, None)
    assert (found.batch_size, found.weight_decay) == (7, 5e-4)


def test_the_preset_of_the_paper_is_the_released_code() -> None:
    """Divergence at temperature 5 with share 0.1, a cross-entropy for each member, flattened heads; not its 200 epochs."""
    method = Dih(setting(), preset="paper")
    assert (method.logit_loss, method.temperature, method.reduction) == ("kd", 5.0, "sum")
    assert method.alpha == {"teacher": 0.1, "head0": 0.1, "head1": 0.1}
    assert not any(isinstance(layer, StandardisedLinear) for layer in method.heads_stage.modules())
    found = method.stages()[0].schedule(TrainSection(epochs=3))
    assert (found.epochs, found.lr, found.weight_decay, found.nesterov) == (20, 0.1, 5e-4, True)
    assert (found.schedule, found.milestones, found.decay) == ("step", (0.3, 0.6, 0.9), 0.2)


def test_what_is_given_beside_a_preset_replaces_its_number() -> None:
    """`preset` fills only the options that are not given."""
    method = Dih(setting(), preset="paper", logit_loss="dist", head="gap", heads_epochs=3)
    assert (method.logit_loss, method.reduction, method.heads_stage.how.kind) == ("dist", "sum", "gap")
    assert method.stages()[0].schedule(TrainSection()).epochs == 3


@pytest.mark.parametrize("kind", ["flatten", "pool4", "gap"])
@pytest.mark.parametrize(("size", "offset"), [(1e-3, 0.0), (1.0, 0.0), (1e3, 0.0), (1e3, 1e4)])
def test_heads_learn_stably_from_features_of_any_size(kind: str, size: float, offset: float) -> None:
    """In the first epoch the cross-entropy of a head stays below ln K + 1, whatever the features' size and offset."""
    torch.manual_seed(0)
    labels = torch.arange(512) % 4
    means = torch.randn(4, 24, 8, 8)
    features = size * (means[labels] + 2 * torch.randn(512, 24, 8, 8)) + offset
    head = build_head(kind, features[:1], 4, "tap")
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    losses = []
    for images, known in zip(features.split(32), labels.split(32), strict=True):
        loss = torch.nn.functional.cross_entropy(head(images), known)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert max(losses) < math.log(4) + 1
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", ["pool4", "gap"])
def test_heads_of_a_wide_network_for_photographs_learn_stably_in_small_batches(kind: str) -> None:
    """At 224 pixels, with the 2048 channels of a ResNet-50 and 8 images a batch, the first epoch stays below ln K + 1."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 10
    for channels, side in ((2048, 7), (256, 14)):
        scale = 30 * torch.rand(channels, 1, 1, generator=draws)
        maps = nn.functional.relu(scale * torch.randn(64, channels, side, side, generator=draws)) + 5
        head = build_head(kind, maps[:1], 10, "tap")
        optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        values = []
        for rows in torch.randperm(64, generator=draws).split(8):
            loss = nn.functional.cross_entropy(head(maps[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        assert sum(values) / len(values) < math.log(10) + 1


def test_a_standardised_head_is_one_linear_layer_once_it_is_trained() -> None:
    """In evaluation it computes what standardisation and linear layer compute one after the other."""
    torch.manual_seed(0)
    layer, features = StandardisedLinear(6, 4, 3), 5 * torch.randn(64, 24) + 7
    for _ in range(200):
        layer(features)
    by_channel = features.unflatten(1, (6, 4))
    mean, spread = by_channel.mean(dim=(0, 2), keepdim=True), by_channel.std(dim=(0, 2), keepdim=True)
    standard = ((by_channel - mean) / spread).flatten(1)
    expected = nn.functional.linear(standard, layer.weight, layer.bias)
    torch.testing.assert_close(layer.eval()(features), expected, rtol=1e-3, atol=1e-3)


def test_logits_of_wide_maps_are_as_large_as_those_of_narrow_ones() -> None:
    """Standardised features are scaled down to one mean squared norm, so that one learning rate fits every width."""
    for channels in (8, 2048):
        layer = StandardisedLinear(channels, 16, 3).train()
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
        standard = torch.randn(64, channels * 16)
        assert float(layer(standard).detach().std()) == pytest.approx(math.sqrt(min(512, channels * 16)), rel=0.3)


def test_each_head_is_calibrated_on_the_held_out_images() -> None:
    """After training its logits are divided by one temperature, at which no other temperature fits the labels better."""
    torch.manual_seed(0)
    stage = Dih(setting(), heads_lr=0.1, heads_epochs=8).stages()[0]
    images, labels, *_ = batch(64)
    data, held_out = Repeated(Batch(images, labels), 20), Repeated(Batch(images, torch.where(labels == 0, 1, labels)), 1)
    loop.fit(stage, data, held_out, settings=stage.schedule(TrainSection()))
    assert isinstance(stage, Heads)
    logits, labels = stage._compute_logits(held_out.epoch(0))
    for name in ("head0", "head1"):
        assert stage.temperatures[name] > 1
        assert fit_temperature(logits[name], labels) == pytest.approx(1, abs=0.01)


def test_heads_that_repeat_labels_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """The table of heads holds accuracy on training and held-out images; a large gap and a large temperature are warned of."""
    torch.manual_seed(0)
    stage = Dih(setting(), head="flatten", heads_lr=0.1, heads_epochs=60).stages()[0]
    data, held_out = Repeated(batch(), 20), Repeated(batch(), 1)
    loop.fit(stage, data, held_out, settings=stage.schedule(TrainSection()))
    (table,) = stage.analyse(data, held_out)
    assert [row[0] for row in table.rows] == ["head0", "head1"]
    assert table.rows[0][2] == "100.0 %"
    assert "better on training images than on held-out ones" in caplog.text
    assert "too sure of itself" in caplog.text


def test_heads_that_cannot_be_trained_are_told_with_the_rate_to_lower(caplog: pytest.LogCaptureFixture) -> None:
    """A rate at which nothing is learnt is warned of, one at which numbers overflow ends training; both name `heads_lr`."""
    images, labels, *_ = batch()
    data = Repeated(Batch(images, labels), 4)
    stage = Dih(setting(), heads_lr=1e6, heads_epochs=2).stages()[0]
    loop.fit(stage, data, data, settings=stage.schedule(TrainSection()))
    stage.analyse(data, Repeated(Batch(images, labels.roll(1)), 1))
    assert "knows no more than chance" in caplog.text
    assert "lower heads_lr" in caplog.text
    overflowing = Dih(setting(), preset="paper", heads_lr=1e30, heads_epochs=2).stages()[0]
    with pytest.raises(CompressError, match=r"is not finite; lower method\.dih\.heads_lr$"):
        loop.fit(overflowing, data, data, settings=overflowing.schedule(TrainSection()))


def test_every_head_is_validated_on_its_own() -> None:
    """The first stage reports the accuracy of each head under the name of the member."""
    stage = Dih(families()).stages()[0]
    data = Repeated(batch(), 2)
    fit = loop.fit(stage, data, Repeated(data.batch, 1), settings=TrainSection(epochs=1))
    heads = ["teacher0_head0", "teacher0_head1", "teacher1_head0", "teacher1_head1", "teacher1_head2"]
    assert list(fit.validation) == heads
    assert all(score.samples == 16 for score in fit.validation.values())


def test_the_first_stage_trains_heads_and_runs_no_student() -> None:
    """Training heads leaves teacher and student alone, the student is never run, and the teacher's logits are not asked for."""
    method = Dih(setting())
    heads = method.stages()[0]
    freezing.freeze_all_but(heads, heads.phases()["heads"])
    assert not any(module.training for module in heads.teachers.modules())
    assert not any(module.training for module in heads.student.modules())
    method.student.register_forward_hook(lambda *_: pytest.fail("the student ran"))
    step = heads.step(batch())
    assert set(heads(step)) == {"ce.head0", "ce.head1"}
    assert [(signal.teacher, signal.tap) for signal in step.signals_read] == [(0, 0), (0, 1)]


@pytest.mark.parametrize("teachers", [1, 2])
@pytest.mark.parametrize("logit_loss", ["kd", "dist"])
def test_kept_logits_of_teacher_and_heads_teach_like_live_ones(logit_loss: Literal["kd", "dist"], teachers: int) -> None:
    """With the members' logits given, neither teacher nor head runs, and losses and gradients are the very same."""
    method, data = build(setting(teachers), logit_loss=logit_loss), batch()
    live = method.step(data)
    terms = method(live)
    weight = method.student.module.linear.weight
    (gradient,) = torch.autograd.grad(sum(terms.values()), weight)
    targets = {signal: live.compute(signal).clone() for signal in live.signals_read}
    heads = set(method.heads_stage.heads.children())
    assert [signal.module in heads for signal in targets] == teachers * [False, True, True]
    ran: list[nn.Module] = []
    for module in [*method.heads_stage.teachers.modules(), *method.heads_stage.heads.modules()]:
        module.register_forward_hook(lambda module, *_: ran.append(module))
    kept = method(method.step(data, signals=targets))
    (again,) = torch.autograd.grad(sum(kept.values()), weight)
    assert not ran
    assert torch.equal(gradient, again)
    assert {name: value.item() for name, value in kept.items()} == {name: value.item() for name, value in terms.items()}
    method(method.step(data))
    assert ran, "the hooks count nothing"


def test_teachers_of_different_families_form_one_cohort() -> None:
    """Heads sit on maps, tokens and vectors of teachers that share no tap, and the whole can be trained."""
    method = Dih(families(), head="gap", logit_loss="dist", reduction="mean")
    assert len(method.alpha) == 2 + 2 + 3
    preflight.check_structure(method, batch())


@pytest.mark.parametrize(
    ("taps", "heads"),
    [
        (("first",), ["teacher0_head0"]),
        (("teacher1.block", "second"), ["teacher0_head1", "teacher1_head1"]),
        (("pooled", "first", "patches"), ["teacher0_head0", "teacher1_head0", "teacher1_head2"]),
    ],
)
def test_taps_are_named_for_every_teacher_or_for_one(taps: tuple[str, ...], heads: Sequence[str]) -> None:
    """A tap's name means every teacher that has it, with the teacher's name in front that one alone."""
    assert list(Dih(families(), taps=taps).heads_stage.places) == heads


def test_a_teacher_in_front_of_a_tap_means_that_teacher_alone() -> None:
    """Where two teachers have taps of the same name, the teacher's name tells them apart; with one it may stand too."""
    assert list(Dih(setting(2), taps=("first",)).heads_stage.places) == ["teacher0_head0", "teacher1_head0"]
    assert list(Dih(setting(2), taps=("teacher1.first",)).heads_stage.places) == ["teacher1_head0"]
    assert list(Dih(setting(), taps=("teacher.second",)).heads_stage.places) == ["head1"]


@pytest.mark.parametrize(
    ("kind", "feature", "inputs"),
    [
        ("flatten", (6, 8, 8), 6 * 8 * 8),
        ("pool4", (6, 8, 8), 6 * 4 * 4),
        ("pool4", (6, 2, 8), 6 * 2 * 4),
        ("gap", (6, 8, 8), 6),
        ("flatten", (20, 10), 20 * 10),
        ("pool4", (20, 10), 16 * 10),
        ("pool4", (5, 10), 5 * 10),
        ("gap", (20, 10), 10),
        ("flatten", (12,), 12),
        ("pool4", (12,), 12),
        ("gap", (12,), 12),
    ],
)
def test_a_head_is_one_linear_layer(kind: str, feature: tuple[int, ...], inputs: int) -> None:
    """A head flattens or pools maps, tokens or vectors, and then is linear; pooling never enlarges."""
    head = build_head(kind, torch.zeros(1, *feature), 10, "tap")
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in linear] == [inputs]
    assert [type(layer) for layer in build_head(kind, torch.zeros(1, *feature), 10, "tap", standardise=False)][-1] is nn.Linear
    assert head.eval()(torch.zeros(2, *feature)).shape == (2, 10)


@pytest.mark.parametrize("feature", [(6, 5, 7), (20, 6)])
def test_a_pooled_head_reads_the_mean_of_each_channel(feature: tuple[int, ...]) -> None:
    """`gap` averages over pixels or tokens, not over channels."""
    head = build_head("gap", torch.zeros(1, *feature), 3, "tap", standardise=False)
    features = torch.randn(2, *feature)
    means = features.mean(dim=(2, 3)) if features.dim() == 4 else features.mean(dim=1)
    linear = next(module for module in head.modules() if isinstance(module, nn.Linear))
    torch.testing.assert_close(head(features), linear(means))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": (0.0,)}, "alpha: is 0 for every member, so the teachers are ignored; use method 'supervised'"),
        ({"alpha": (0.2, 0.0, 0.4)}, r"alpha: is 0 for head0, .* leave it out by name: `members: \[teacher, head1\]`"),
        ({"alpha": (0.1, 0.2)}, "alpha: has 2 numbers; give one, or one for each of: teacher, head0, head1"),
        ({"members": ("head0",), "alpha": (0.1, 0.2)}, "has 2 numbers; give one, or one for each of: head0$"),
        ({"members": ("teacher", "head7")}, "members: there is no 'head7'; there are: teacher, head0, head1"),
        ({"members": ("head0", "head0")}, "members: head0, head0 names somebody twice"),
        ({"members": ("teacher",)}, "members: teacher is no head; add one of: head0, head1, or use method 'kd'"),
        ({"members": ()}, "members: nobody is no head"),
        ({"taps": ("third",)}, "taps: there is no tap 'third'; .*: teacher: first, second"),
        ({"taps": ("first", "teacher1.first")}, "taps: there is no tap 'teacher1.first'"),
        ({"taps": ()}, "taps: there is no tap to put a head on; .*: teacher: first, second"),
        ({"taps": ("first",), "members": ("head1",)}, "there is no 'head1'; there are: teacher, head0"),
    ],
)
def test_what_would_silently_become_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    """Empty cohorts, weights of zero, unknown names and too many numbers are errors that say what exists and what to do."""
    with pytest.raises(CompressError, match=message):
        Dih(setting(), **options)


def test_an_unknown_tap_lists_those_of_every_teacher() -> None:
    """With several teachers the message says whose taps are whose."""
    with pytest.raises(CompressError, match="teacher0: first, second; teacher1: patches, block, pooled"):
        Dih(families(), taps=("third",))


def test_a_tap_that_no_head_can_read_is_refused() -> None:
    """What is neither map, tokens nor vector is named with its shape."""
    with pytest.raises(CompressError, match=r"'volume' gives \[1, 2, 3, 4, 5\]; name taps with maps"):
        build_head("gap", torch.zeros(1, 2, 3, 4, 5), 10, "volume")


def test_teachers_without_taps_are_refused() -> None:
    """A teacher that says nothing but its logits has no intermediate layer to put a head on."""
    where = setting()._replace(teachers=(Network(tiny(8).module, taps=()),))
    with pytest.raises(CompressError, match=r"there is no tap to put a head on; .*: teacher: none"):
        Dih(where)


def test_a_head_can_hold_a_convolution() -> None:
    """`head: conv` puts a convolution before the pooling; it is trained with the heads, and tokens refuse it with advice."""
    method = Dih(setting(), head="conv")
    assert {type(layer) for layer in method.heads_stage.heads["head0"]} >= {
        nn.Conv2d,
        nn.ReLU,
        nn.AdaptiveAvgPool2d,
        StandardisedLinear,
    }
    preflight.check_structure(method, batch())
    with pytest.raises(CompressError, match=r"'conv' needs maps \[B, c, h, w\].*use gap"):
        Dih(families(), head="conv")
