"""Relational distillation: what is compared, its weights, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from compress import freezing, losses
from compress.errors import CompressError
from compress.methods import Setting
from compress.methods.rkd import Rkd
from compress.models import Network
from tests.tiny import batch, setting, tiny


def test_terms_compare_the_averaged_maps_of_the_last_taps() -> None:
    """Without names the last tap of each network is read, averaged over its pixels; the mean over teachers has the weights."""
    method = Rkd(setting(2), distance_weight=2.0, angle_weight=3.0).eval()
    step = method.step(batch())
    terms = method(step)
    student = step.student.features[-1].mean(dim=(2, 3))
    parts = [losses.rkd(student, step.teacher(index).features[-1].mean(dim=(2, 3))) for index in (0, 1)]
    torch.testing.assert_close(terms["distance"], 2 * (parts[0][0] + parts[1][0]) / 2)
    torch.testing.assert_close(terms["angle"], 3 * (parts[0][1] + parts[1][1]) / 2)


def test_taps_are_chosen_by_name() -> None:
    """Another tap is another loss, and the map at no other tap of the teacher is asked for."""
    method = Rkd(setting(), student_tap="first", teacher_tap="first").eval()
    freezing.freeze_all_but(method, method.phases()["student"])
    step = method.step(batch())
    method(step)
    assert [(signal.teacher, signal.tap) for signal in step.signals_read] == [(0, 0)]


def test_defaults_are_the_released_codes() -> None:
    """Weights 1, 25 and 50."""
    method = Rkd(setting())
    assert (method.ce_weight, method.distance_weight, method.angle_weight) == (1.0, 25.0, 50.0)


def test_what_cannot_teach_is_refused() -> None:
    """Weights of 0, an unknown tap and a network without taps end in advice."""
    with pytest.raises(CompressError, match="the teacher is ignored"):
        Rkd(setting(), distance_weight=0.0, angle_weight=0.0)
    with pytest.raises(CompressError, match="teacher 0 has no tap 'third'; there are: first, second"):
        Rkd(setting(), teacher_tap="third")
    bare = Network(tiny(8).module, taps=())
    with pytest.raises(CompressError, match="teacher 0 has no tap to read a map from"):
        Rkd(Setting(tiny(2), (bare,), torch.zeros(1, 1, 8, 8), 4))
