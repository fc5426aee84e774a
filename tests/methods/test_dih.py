"""The cohort of heads: its sum, its members, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compress import freezing, losses
from compress.errors import CompressError
from compress.methods.dih import Dih, _head
from tests.methods.test_contract import batch, setting


def test_the_sum_counts_the_cross_entropy_once_per_member() -> None:
    """The default is the released code's sum: each member brings its own share of the cross-entropy."""
    where = setting()
    method = Dih(where, temperature=5.0, alpha=(0.1,))
    data = batch()
    method.eval()
    step = method.step(data)
    terms = method(step)
    student, cohort = step.student.logits, method.heads_stage.cohort(step)
    assert list(cohort) == ["teacher", "head0", "head1"]
    torch.testing.assert_close(terms["ce"], 3 * 0.9 * F.cross_entropy(student, data.labels))
    for name, logits in cohort.items():
        torch.testing.assert_close(terms[f"kd.{name}"], 0.1 * losses.kd(student, logits, temperature=5.0))


def test_mean_is_the_sum_divided_by_the_members_and_single_ce_counts_it_once() -> None:
    """The reductions differ by scale, and by how often the labels count."""
    where = setting()
    data = batch()
    terms = {}
    for reduction in ("sum", "mean", "single_ce"):
        torch.manual_seed(1)
        method = Dih(where, reduction=reduction).eval()  # type: ignore[arg-type]
        terms[reduction] = method(method.step(data))
    for name, value in terms["sum"].items():
        torch.testing.assert_close(terms["mean"][name], value / 3)
    torch.testing.assert_close(terms["single_ce"]["ce"], terms["sum"]["ce"] / 3)
    torch.testing.assert_close(terms["single_ce"]["kd.head0"], terms["sum"]["kd.head0"])


def test_a_member_with_weight_zero_is_left_out_with_its_cross_entropy() -> None:
    """Alpha 0 removes a member and its share of the labels."""
    method = Dih(setting(), alpha=(0.2, 0.0, 0.4)).eval()
    data = batch()
    step = method.step(data)
    terms = method(step)
    assert set(terms) == {"ce", "kd.teacher", "kd.head1"}
    torch.testing.assert_close(terms["ce"], (0.8 + 0.6) * F.cross_entropy(step.student.logits, data.labels))


def test_members_teach_with_correlations_when_asked() -> None:
    """`logit_loss: dist` replaces the divergence of every member."""
    method = Dih(setting(), logit_loss="dist", temperature=4.0).eval()
    step = method.step(batch())
    terms = method(step)
    cohort = method.heads_stage.cohort(step)
    torch.testing.assert_close(terms["dist.head1"], 0.1 * losses.dist(step.student.logits, cohort["head1"], temperature=4.0))


def test_a_cohort_over_two_teachers_has_the_heads_of_both() -> None:
    """Each teacher brings itself and its own heads."""
    method = Dih(setting(teachers=2))
    assert method.heads_stage.members() == [
        "teacher0", "teacher0_head0", "teacher0_head1", "teacher1", "teacher1_head0", "teacher1_head1",
    ]  # fmt: skip


def test_the_first_stage_trains_heads_and_runs_no_student() -> None:
    """Training heads leaves teacher and student alone, and the student is never run."""
    method = Dih(setting())
    heads = method.stages()[0]
    freezing.freeze_all_but(heads, heads.phases()["heads"])
    assert not any(module.training for module in heads.teachers.modules())
    assert not any(module.training for module in heads.student.modules())
    method.student.register_forward_hook(lambda *_: pytest.fail("the student ran"))
    terms = heads(heads.step(batch()))
    assert set(terms) == {"ce.head0", "ce.head1"}


@pytest.mark.parametrize(("kind", "inputs"), [("flatten", 6 * 8 * 8), ("pool4", 6 * 4 * 4), ("gap", 6)])
def test_a_head_is_one_linear_layer(kind: str, inputs: int) -> None:
    """A head flattens, pools to 4×4 or pools to one value, and then is linear."""
    head = _head(kind, torch.zeros(1, 6, 8, 8), 10)
    linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in linear] == [inputs]
    assert head(torch.zeros(2, 6, 8, 8)).shape == (2, 10)


def test_an_empty_cohort_a_wrong_tap_and_wrong_weights_are_refused() -> None:
    """What would silently become plain training is an error that says what exists."""
    with pytest.raises(CompressError, match="nobody teaches"):
        Dih(setting(), alpha=(0.0,))
    with pytest.raises(CompressError, match="it has: first, second"):
        Dih(setting(), taps=("third",))
    with pytest.raises(CompressError, match="one for each of: teacher, head0, head1"):
        Dih(setting(), alpha=(0.1, 0.2))
