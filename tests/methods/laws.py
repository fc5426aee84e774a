"""What holds for a method alone and for every combination of methods."""

from __future__ import annotations

from torch import nn

from compress.methods import Method
from tests.tiny import batch


def check_each_network_runs_once(method: Method) -> None:
    """Assert that one phase of one step runs every layer of student and teachers at most once, whatever the losses read."""
    counts: dict[str, int] = {}
    for stage in method.stages():
        layers = {name: part for name, part in stage.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
        handles = [
            layer.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts.get(name, 0) + 1))
            for name, layer in layers.items()
        ]
        for phase in stage.phases():
            counts.clear()
            stage(stage.step(batch(), phase=phase))
            assert counts, (stage.stage, phase)
            assert all(count == 1 for count in counts.values()), (stage.stage, phase, counts)
        for handle in handles:
            handle.remove()
