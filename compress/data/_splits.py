"""Names of splits and classes as people write them, and a split for data that has none."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compress.errors import CompressError
from compress.text import quantify

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
    "validation": ("val", "valid", "validation", "dev"),
}
"""What each split is usually called, in any case of letters; the best known first."""
FILLERS = frozenset({"set", "data", "dataset", "images", "imgs", "pictures", "photos", "split", "seg"})
"""Words that stand beside those, as in `training_set`, `Test images` and `seg_train`."""

TEST_FRACTION = 0.2
"""Share of each class that is set apart for the test where the data has no test split, unless the recipe says another."""

_BUCKETS = 1 << 64


def find_split(role: str, names: Iterable[str]) -> str | None:
    """Return which of some names a split is usually called by: `train`, `test` or `validation`; `None` if none is."""
    known = {name.casefold(): name for name in sorted(names, reverse=True)}  # of `Train` and `train` the first is taken
    bare = {_strip_fillers(name): original for name, original in sorted(known.items(), reverse=True)}
    return next((found[usual] for found in (known, bare) for usual in SPLIT_NAMES[role] if usual in found), None)


def _strip_fillers(name: str) -> str:
    """Return what is left of a name in small letters without the words that stand beside a split's."""
    words = [word for word in re.split(r"[\W_]+", name) if word and word not in FILLERS]
    return "_".join(words).removesuffix("set")


def normalise_name(name: str) -> str:
    """Return the name of a class with its letters composed, as macOS does not have them, and no white space around."""
    return unicodedata.normalize("NFC", name).strip()


def describe_renamed(names: Iterable[str]) -> tuple[str, ...]:
    """Return a note on names that were composed or stripped, and one on those that differ in case alone; or nothing.

    Args:
        names: As they stand in the data.
    """
    known = sorted(set(names))
    changed = [name for name in known if normalise_name(name) != name]
    notes = []
    if changed:
        shown = list_names(changed, escape=True)
        notes.append(
            f"{quantify(len(changed), 'class name')} read without regard to the Unicode form and to spaces around: {shown}"
        )
    return (*notes, *_describe_alike({normalise_name(name) for name in known}))


def _describe_alike(names: Iterable[str]) -> Iterator[str]:
    """Yield a note on classes whose names differ in the case of their letters alone; mostly they are meant to be one."""
    folded: dict[str, list[str]] = {}
    for name in sorted(names):
        folded.setdefault(name.casefold(), []).append(name)
    alike = [group for group in folded.values() if len(group) > 1]
    if alike:
        yield (
            f"{list_names(alike[0])} are classes of their own and differ in the case of their letters only"
            f"{f', as do {len(alike) - 1} more' if len(alike) > 1 else ''}; give them one name if they are one class"
        )


def list_names(names: Iterable[str], *, escape: bool = False) -> str:
    """Return some names in quotes, so that spaces around them are seen.

    Args:
        names: Any number.
        escape: Show what is not ASCII by its number, so that two forms of a letter are told apart.
    """
    ordered = sorted(names)
    quoted = ", ".join(ascii(name) if escape else repr(name) for name in ordered[:5])
    return quoted + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "")


def describe_difference(first: str, second: str, names: Sequence[Iterable[str]]) -> str:
    """Return which classes are in one of two splits alone, and whether they differ in the case of letters only.

    Args:
        first: What the first split is called.
        second: The other.
        names: The classes of each.
    """
    one, other = set(names[0]), set(names[1])
    parts = [
        f"{where} alone has {list_names(alone)}" for where, alone in ((first, one - other), (second, other - one)) if alone
    ]
    folded = {name.casefold(): name for name in other - one}
    alike = [(name, folded[name.casefold()]) for name in sorted(one - other) if name.casefold() in folded]
    hint = f" ({alike[0][0]!r} and {alike[0][1]!r} differ in the case of their letters only)" if alike else ""
    return "; ".join(parts) + hint


def refuse_duplicates(where: str, names: Sequence[str]) -> None:
    """Refuse classes of which two have one name, in whatever form.

    Raises:
        CompressError: The message quotes the name and says which labels it has.
    """
    seen: dict[str, int] = {}
    for label, name in enumerate(names):
        first = seen.setdefault(normalise_name(name), label)
        if first != label:
            raise CompressError(
                f"{where}: class name {name!r} stands for label {first} and for label {label}; give each class its own name"
            )


def choose_test_rows(keys: Sequence[str], labels: NDArray[np.int64], *, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Return which items [N] are set apart for the test: each by a hash of its own key, so that none moves when others come.

    In each class the share is about the fraction. Chance is bounded: no less than half of it and no more than twice of it, and
    one item on each side where there are two.

    Args:
        keys: What names each item for good, for example its path.
        labels: The class of each, [N].
        fraction: Share that is set apart.
        seed: Another one gives another split.
    """
    hashes = np.array([_hash_to_unit(f"{seed}:{key}") for key in keys])
    chosen = hashes < fraction
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count, share = int(chosen[rows].sum()), fraction * len(rows)
        least, most = max(1, int(share / 2)), min(len(rows) - 1, max(1, int(2 * share)))
        wanted = min(max(count, least), most) if len(rows) > 1 else 0
        if wanted != count:
            chosen[rows] = False
            chosen[rows[np.argsort(hashes[rows], kind="stable")[:wanted]]] = True
    return chosen


def _hash_to_unit(text: str) -> float:
    """Return a number in 0 .. 1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()[:8], "big") / _BUCKETS


def describe_split(fraction: float, seed: int, train: int, test: int, *, by: str) -> str:
    """Return a note on a split that the data did not have.

    Args:
        fraction: Share that was asked for.
        seed: Of the split.
        train: Images left for training and validation.
        test: Images set apart.
        by: What decides where an image goes.
    """
    return (
        f"no test split is there, so {test} of {train + test} images are set apart for it, about {100 * fraction:g} % of each "
        f"class, by a hash of {by} (data.test_fraction {fraction:g}, data.split_seed {seed})"
    )
