"""The embedded digits: their constants, values and fixed test split."""

import subprocess
import sys

import numpy as np
import pytest

from compress.data.digits import Digits
from compress.errors import CompressError
from compress.records import Preprocess

NATIVE = Preprocess(height=8, width=8, channels="gray", mean=(0.0,), std=(1.0,))


def test_values_are_spread_over_the_whole_range():
    """0 .. 16 become 17 evenly spread levels from 0 to 255, and nothing else changes."""
    from sklearn.datasets import load_digits

    dataset = Digits().load(NATIVE)
    levels = np.unique(dataset.train.images)
    assert levels.tolist() == [round(255 * value / 16) for value in range(17)]
    total = sum(int(np.searchsorted(levels, split.images).sum()) for split in dataset)
    assert total == load_digits().images.sum()


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.333, 0.5])
def test_the_summary_is_right_for_any_fraction(fraction):
    """The constants that spare `compress check` scikit-learn agree with scikit-learn."""
    source = Digits(test_fraction=fraction)
    dataset = source.load(NATIVE)
    assert source.summary()[:3] == (tuple("0123456789"), len(dataset.train.labels), len(dataset.test.labels))


def test_the_test_split_is_stratified():
    """A quarter of each digit is set aside, to one image."""
    dataset = Digits().load(NATIVE)
    train, test = (np.bincount(split.labels, minlength=10) for split in dataset)
    assert np.abs(test - (train + test) / 4).max() < 1


def test_a_fraction_that_loses_a_class_is_refused():
    """A test split too small for ten classes is no test split."""
    with pytest.raises(CompressError, match="cannot be set apart"):
        Digits(test_fraction=0.001).load(NATIVE)


def test_the_summary_needs_no_scikit_learn():
    """`compress check` stays quick."""
    script = "import sys; from compress.data.digits import Digits; Digits().summary(); print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
