"""Find out why a given teacher is worse than it could be: images prepared otherwise, or classes in another order.

A teacher that comes from elsewhere takes its images as its own training prepared them. Fed otherwise it still answers, only
worse, and the student is then taught by it. So it is run on some hundreds of held-out images as they are and in every other way
that is in use (`compress.input_probes`), and its answers are read in every other order of the classes (`class_order`). Of the
explanations that do as well as the best the simplest counts: how images are prepared, before the order of the classes, before
both; a permutation of the answers can also be the work of blue that was taken for red.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.input_probes import Convention, list_conventions, turn_and_mirror
from compress.models import Network, count_macs, run_normalised
from compress.statistics.paired import mcnemar
from compress.training.class_order import (
    FITTED_GAIN_POINTS,
    MOST_NAMED,
    ClassOrder,
    describe_order,
    find_exchanged,
    find_merged,
    list_class_orders,
    write_recipe_line,
)

SCREENED, FEWEST_SCREENED = 256, 48
"""Images on which everything is tried; for large networks fewer."""
CONFIRMED = 1024
"""Images on which the likely cause is confirmed."""
MOST_MACS = {"cpu": 1e12, "cuda": 1e15}
"""Multiply-accumulates of a trial, about 20 s of two AVX2 cores; fixed, so that the outcome does not depend on the load."""
ALTERNATIVES = 20
"""About so many ways are tried."""
SIGNIFICANT = 1e-3
"""Of McNemar's test, for some twenty alternatives."""
AS_GOOD = 0.01
"""Above this p-value two explanations do equally well."""
SAID_POINTS, REFUSED_POINTS = 1.0, 5.0
"""Points of top-1 from which on an alternative is told, and refuses the teacher."""
LOGIT_SIZE = 4.0
"""Standard deviation of the logits of an image, on the average, to which all explanations are brought."""
MOST_FITTED = 200
"""With more classes no order is fitted to the answers on altered images."""
CONVINCING = 0.8
"""Top-1 with fitted classes from which on their order is all that can be wrong."""
INVERTED = "the images are inverted (dark for bright)"
GRAY = "the images are gray"
ALTERED = {INVERTED: ("inverted", "invert the images"), GRAY: ("gray", "make the images gray")}
"""What the images were, and what to do, where it is not that they were turned or mirrored."""
FURTHER = 32
"""Training images of each class that may be exchanged, where there are too few held-out ones."""

Images = NDArray[np.float32]


class HeldOut(NamedTuple):
    """Held-out images with their labels."""

    shares: Images
    """Float32 [N, C, H, W], from 0 to 1, gray or RGB."""
    labels: NDArray[np.int64]
    """[N]."""
    further: Callable[[Sequence[int]], tuple[Images, NDArray[np.int64]]] | None = None
    """Returns training images of some classes, such as these."""


class InputNow(NamedTuple):
    """How the teacher is fed now."""

    convention: Convention
    is_gray: bool = False
    """Whether it takes gray images."""
    knows_adapter: bool = True
    """Whether `convention` is what the network within an adapter takes, and not what the adapter takes."""


class Finding(NamedTuple):
    """What is wrong with a teacher."""

    text: str
    is_refused: bool
    """Whether so much is lost that the teacher must not teach."""
    convention: Convention | None
    """How it should be fed, where that differs."""
    order: ClassOrder | None
    """Order of its classes, where that differs."""


class _Explanation(NamedTuple):
    """One way to read the teacher, and how well it does so."""

    complexity: int
    """0 as it is, 1 images, 2 a usual class order, 3 another one, 4 images and classes."""
    what: str
    convention: Convention | None
    order: ClassOrder | None
    correct: NDArray[np.bool_]
    """[n]."""
    surprise: float
    """Mean of -log of the share that the true class is given by logits of one size: of equals, the surest is the true one."""


Kind = Literal["recipe", "library"]


def find_teacher_problem(
    name: str, network: Network, held_out: HeldOut, classes: Sequence[str], now: InputNow, *, kind: Kind = "recipe"
) -> Finding | None:
    """Return how a given teacher would clearly be better, if there is a way.

    On images of one class any answer is right in some order of the classes, so nothing is said of them.

    Args:
        name: The teacher in messages.
        network: It; its modes end as they were.
        held_out: Images, with labels.
        classes: Names in label order.
        now: How it is fed.
        kind: Whether the remedy is said for a recipe or for `compress.distill`.
    """
    if len(np.unique(held_out.labels)) < 2:
        return None
    trial = _Trial(network, now, classes)
    screened = _take_rows(held_out, trial.count_screened(held_out))
    explanations = list(trial.explain(*screened))
    chosen = _choose(explanations)
    finding = None
    if chosen.complexity > 0:
        finding = _confirm(name, trial, held_out, chosen, kind)
    if finding is None or not finding.is_refused:
        return _find_exchange(name, trial, held_out, kind) or finding or _find_merged(name, trial, held_out)
    return finding


def check_given_teacher(
    name: str, network: Network, held_out: HeldOut, classes: Sequence[str], now: InputNow, *, kind: Kind = "recipe"
) -> str:
    """Return what people should know of a given teacher, or nothing; arguments as `find_teacher_problem`.

    Raises:
        CompressError: It would be far better if it were fed otherwise, or if its classes were read in another order.
    """
    finding = find_teacher_problem(name, network, held_out, classes, now, kind=kind)
    if finding is None:
        return ""
    if finding.is_refused:
        raise CompressError(finding.text)
    return finding.text


class _Trial:
    """A teacher that is run in several ways."""

    def __init__(self, network: Network, now: InputNow, classes: Sequence[str]) -> None:
        self.network, self.now, self.classes = network, now, classes

    def count_screened(self, held_out: HeldOut) -> int:
        """Return on how many images everything is tried."""
        image = torch.from_numpy(held_out.shares[:1]).to(self._device)
        macs = count_macs(self.network, image)
        affordable = int(MOST_MACS[self._device.type] / max(macs * ALTERNATIVES, 1))
        return min(len(held_out.labels), SCREENED, max(FEWEST_SCREENED, affordable))

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _take_channels(self, shares: Images) -> Images:
        """Return images with the channels that the teacher takes, [N, c, H, W], blue not yet first."""
        if self.now.is_gray and shares.shape[1] == 3:
            weights = np.array([0.299, 0.587, 0.114], np.float32)
            return np.tensordot(shares, weights, axes=(1, 0))[:, None].astype(np.float32)
        return np.repeat(shares, 3, axis=1) if not self.now.is_gray and shares.shape[1] == 1 else shares

    def run(self, images: Images) -> Tensor:
        """Return logits [N, K] for images as the teacher takes them, [N, c, H, W]."""
        parts = torch.from_numpy(np.ascontiguousarray(images)).split(64)
        with evaluating(self.network):
            run = run_normalised if self.now.knows_adapter else type(self.network).__call__
            return torch.cat([run(self.network, part.to(self._device)).float().cpu() for part in parts])

    def predict(self, shares: Images, convention: Convention | None = None) -> NDArray[np.int64]:
        """Return the answers [N] for shares [N, C, H, W], in the present convention or another."""
        images = (convention or self.now.convention).apply(self._take_channels(shares))
        predicted: NDArray[np.int64] = self.run(images).argmax(dim=1).numpy()
        return predicted

    def explain(self, shares: Images, labels: NDArray[np.int64]) -> Iterator[_Explanation]:
        """Yield every explanation, given shares [N, C, H, W] and labels [N]."""
        images = self._take_channels(shares)
        given = self.now.convention
        yield from self._read(0, "", None, given.apply(images), labels)
        own = tuple(images.mean(axis=(0, 2, 3)).tolist()), tuple(np.maximum(images.std(axis=(0, 2, 3)), 1e-6).tolist())
        for convention in list_conventions(given.mean, given.std, images.shape[1], own=own):
            if not convention.is_usual:
                continue
            tried = convention
            if given.bgr:
                tried = convention._replace(bgr=not convention.bgr, what=convention.what.replace("BGR", "RGB"))
            yield from self._read(1, tried.what, tried, tried.apply(images), labels)
        for what, altered in _alter(images).items():
            yield from self._read(1, what, None, given.apply(altered), labels)

    def _read(
        self, complexity: int, what: str, convention: Convention | None, images: Images, labels: NDArray[np.int64]
    ) -> Iterator[_Explanation]:
        """Yield the answers for images, in the data's class order and in others."""
        logits = self.run(images)
        predicted: NDArray[np.int64] = logits.argmax(dim=1).numpy()
        surprise = _measure_surprise(logits.double(), torch.from_numpy(labels))
        yield _Explanation(complexity, what, convention, None, predicted == labels, surprise)
        if complexity and len(self.classes) > MOST_FITTED:
            return
        for order in list_class_orders(predicted, labels, self.classes):
            level = 4 if complexity else 3 if order.is_fitted else 2
            told = f"{what} and with {order.what}" if what else f"with {order.what}"
            yield _Explanation(level, told, convention, order, order.correct, 0.0)


def _alter(shares: Images) -> dict[str, Images]:
    """Return shares [N, C, H, W] as pictures of another kind, by what differs: inverted, mirrored, turned."""
    weights = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]
    gray = {GRAY: np.broadcast_to((shares * weights).sum(axis=1, keepdims=True), shares.shape)} if shares.shape[1] == 3 else {}
    return {
        INVERTED: 1 - shares,
        **gray,
        **{what: np.ascontiguousarray(each) for what, each in turn_and_mirror(shares, (2, 3)).items()},
    }


def _measure_surprise(logits: Tensor, labels: Tensor) -> float:
    """Return the mean of -log of the share of the true class [N], given logits [N, K] brought to one size.

    Images that are fed too large give larger logits, which are no surer for that.
    """
    size = logits.std(dim=1, correction=0).mean().clamp_min(1e-12)
    return float(torch.nn.functional.cross_entropy(LOGIT_SIZE * logits / size, labels))


def _take_rows(held_out: HeldOut, count: int) -> tuple[Images, NDArray[np.int64]]:
    """Return some images [n, C, H, W] and their labels [n], drawn evenly."""
    rows = np.sort(np.random.default_rng(0).permutation(len(held_out.labels))[:count])
    return held_out.shares[rows], held_out.labels[rows]


def _choose(explanations: Sequence[_Explanation]) -> _Explanation:
    """Return the simplest explanation that does as well as the best; of several as simple the one that is surest."""
    best = max(explanations, key=lambda each: int(each.correct.sum()))
    fair = [each for each in explanations if _does_as_well(each, best)]
    simplest = min(each.complexity for each in fair)
    alike = [each for each in fair if each.complexity == simplest]
    most = max(float(each.correct.mean()) for each in alike)
    near = [each for each in alike if each.correct.mean() >= most - 0.02]
    return min(near, key=lambda each: (each.surprise, -float(each.correct.mean())))


def _does_as_well(one: _Explanation, best: _Explanation) -> bool:
    return one is best or mcnemar(one.correct, best.correct)[2] >= AS_GOOD


def _confirm(name: str, trial: _Trial, held_out: HeldOut, chosen: _Explanation, kind: Kind) -> Finding | None:
    """Return what to say of an explanation, judged on more images."""
    shares, labels = _take_rows(held_out, CONFIRMED)
    before = trial.predict(shares) == labels
    if chosen.convention is None and chosen.order is None:  # the pictures themselves were others
        answers = trial.predict(_alter(shares)[chosen.what])
    else:
        answers = trial.predict(shares, chosen.convention)
    after, least = answers == labels, SAID_POINTS
    if chosen.order is not None:
        same = [each for each in list_class_orders(answers, labels, trial.classes) if each.is_fitted == chosen.order.is_fitted]
        order = max(same, key=lambda each: int(each.correct.sum()), default=chosen.order)
        after, least = order.correct, FITTED_GAIN_POINTS if order.is_fitted else SAID_POINTS
        chosen = chosen._replace(order=order)
    gain = 100 * (float(after.mean()) - float(before.mean()))
    if gain < least or mcnemar(after, before)[2] >= SIGNIFICANT:
        return None
    numbers = f"has {100 * before.mean():.1f} % top-1 on {len(labels)} held-out images, but {100 * after.mean():.1f} %"
    clause = chosen.what if chosen.what.startswith("with ") else f"when {chosen.what}"
    text = f"{name}: {numbers} {clause}: {_name_cause(trial, chosen)}; {_write_remedy(trial, chosen, kind)}"
    if chosen.order is not None and chosen.order.is_fitted and after.mean() < CONVINCING:
        text += (
            f"; if it had much more than these {100 * after.mean():.0f} % where it was trained, do not: then something else "
            "permutes its answers, such as how its images were cut or coloured"
        )
    return Finding(text, gain >= REFUSED_POINTS, chosen.convention, chosen.order)


def _name_cause(trial: _Trial, chosen: _Explanation) -> str:
    now, convention, order = trial.now.convention, chosen.convention, chosen.order
    causes = []
    if convention is not None:
        if (convention.mean, convention.std) != (now.mean, now.std):
            causes.append("another normalisation (mean and std)")
        if convention.bgr != now.bgr:
            causes.append("another order of the channels")
    elif order is None:
        causes.append(f"images that were {ALTERED.get(chosen.what, ('turned or mirrored', ''))[0]}")
    if order is not None:
        causes.append(f"another class order ({describe_order(order, trial.classes)})")
    return f"it was most likely trained with {' and '.join(causes)}"


def _write_remedy(trial: _Trial, chosen: _Explanation, kind: Kind) -> str:
    """Return the lines of the recipe, or the call, that mend it."""
    lines = []
    if (convention := chosen.convention) is not None:
        step = -1 if convention.bgr else 1
        lines += [f"mean: {_list(convention.mean[::step])}", f"std: {_list(convention.std[::step])}"]
        if convention.bgr != trial.now.convention.bgr:
            lines.append(f"channels: {'bgr' if convention.bgr else 'rgb'}")
    if kind == "library":
        return _write_call(trial, chosen)
    if chosen.order is not None:
        lines.append(write_recipe_line(chosen.order, trial.classes))
    if not lines:
        return _advise_altering(chosen)
    return f"add to its section of the recipe: {', '.join(lines)}"


def _write_call(trial: _Trial, chosen: _Explanation) -> str:
    """Return the call that mends a teacher of `compress.distill`."""
    arguments = []
    if (convention := chosen.convention) is not None:
        now, step = trial.now.convention, -1 if convention.bgr else 1
        arguments += [f"loader_mean={_list(now.mean)}", f"loader_std={_list(now.std)}"]
        arguments += [f"mean={_list(convention.mean[::step])}", f"std={_list(convention.std[::step])}"]
        arguments += ["channels='bgr'"] if convention.bgr else []
    if chosen.order is not None:
        outputs = np.argsort(chosen.order.order).tolist()
        arguments.append(f"classes={outputs}" if len(outputs) <= MOST_NAMED else "classes=[its output for each label]")
    if not arguments:
        return _advise_altering(chosen)
    return f"give compress.adapt_teacher(teacher, {', '.join(arguments)})"


def _advise_altering(chosen: _Explanation) -> str:
    verb = ALTERED.get(chosen.what, ("", "turn the images"))[1]
    return f"{verb} as it was trained on them, or take another teacher"


def _list(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.6g}' for value in values)}]"


def _find_exchange(name: str, trial: _Trial, held_out: HeldOut, kind: Kind) -> Finding | None:
    """Return that a few classes answer for each other, whatever that costs over all; more images decide where there are few."""
    shares, labels = _take_rows(held_out, CONFIRMED)
    predicted, classes = trial.predict(shares), len(trial.classes)
    before = float((predicted == labels).mean())
    suspected = find_exchanged(predicted, labels, classes, at_once=True)
    if suspected is None:
        return None
    found = find_exchanged(predicted, labels, classes)
    if found is None and held_out.further is not None:
        moved = np.flatnonzero(suspected != np.arange(classes)).tolist()
        more, known = held_out.further(moved)
        predicted, labels = np.concatenate([predicted, trial.predict(more)]), np.concatenate([labels, known])
        found = find_exchanged(predicted, labels, classes)
    if found is None:
        return None
    order = ClassOrder("with some of its classes exchanged", found, found[predicted] == labels, is_fitted=True)
    chosen = _Explanation(3, "with some of its classes exchanged", None, order, order.correct, 0.0)
    inside = np.isin(labels, np.flatnonzero(found != np.arange(classes)))
    right, exchanged = 100 * (predicted == labels)[inside].mean(), 100 * order.correct[inside].mean()
    return Finding(
        f"{name}: has {100 * before:.1f} % top-1 on held-out images, but of the classes that it exchanges {right:.1f} %, and "
        f"{exchanged:.1f} % with some of its classes exchanged: it was trained with another class order "
        f"({describe_order(order, trial.classes)}); {_write_remedy(trial, chosen, kind)}",
        is_refused=True,
        convention=None,
        order=order,
    )


def _find_merged(name: str, trial: _Trial, held_out: HeldOut) -> Finding | None:
    """Return that some classes are always taken for others, which no order of the classes mends."""
    shares, labels = _take_rows(held_out, CONFIRMED)
    merged = find_merged(trial.predict(shares), labels, len(trial.classes))
    if not merged:
        return None
    said = [
        f"{taken} of {images} images of {trial.classes[label]!r} are {trial.classes[answer]!r} to it"
        for label, answer, taken, images in merged[:2]
    ] + ([f"and so for {len(merged) - 2} more classes"] if len(merged) > 2 else [])
    text = f"{name}: {', '.join(said)}: it teaches the student the same; compare its classes with those of the data"
    return Finding(text, is_refused=False, convention=None, order=None)
