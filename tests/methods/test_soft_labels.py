"""Labels that are shares of classes, as mixing and smoothing make them: every method learns from them, or is refused."""

import pytest
import torch
from torch.nn import functional

from compress import plugins
from compress.plan.checks import NEED_ONE_CLASS
from tests.tiny import batch, fresh


@pytest.mark.parametrize("name", sorted(set(plugins.list_names("methods")) - NEED_ONE_CLASS - {"cwd"}))
def test_shares_that_are_one_class_are_that_class(name):
    """Shares of one class alone give every phase of every stage the losses of that class as a label."""
    hard = batch()
    soft = hard._replace(labels=functional.one_hot(hard.labels, 4).float())
    for stage in fresh(name).stages():
        for phase in stage.phases():
            found = []
            for given in (hard, soft):
                torch.manual_seed(0)
                stage.eval()
                found.append(stage.losses(stage.step(given, phase=phase)))
            for term, value in found[0].items():
                torch.testing.assert_close(found[1][term], value, msg=f"{name} {phase} {term}")
