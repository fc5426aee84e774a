"""A realistic report: nothing in it was measured, everything in it could have been."""

import math
import random

import numpy as np

from benchmarks.report import paired
from compress.records import (
    Accuracy,
    Environment,
    Epoch,
    Gate,
    Latency,
    Ratio,
    Report,
    Scores,
    SeedScore,
    StageResult,
    Variant,
)

CORRECT = {"teacher": 356, "student": 353, "kd": 349, "supervised": 345}
METHODS = {"teacher": "supervised", "student": "dih(dist)", "kd": "kd", "supervised": "supervised"}
BASE_MS = {"torch": 0.94, "onnxruntime": 0.131, "openvino": 0.158}
FILES = [
    ("torch", "torch", "fp32"),
    ("onnx", "onnxruntime", "fp32"),
    ("openvino", "openvino", "fp32"),
    ("openvino", "openvino", "fp16"),
]
SHA = "0" * 64


def sample(*, seed: int = 0, name: str = "digits") -> Report:
    """Return a run in which the student's OpenVINO fp16 file failed its gate and one latency never settled."""
    chance = random.Random(seed)
    variants = [_variant(chance, network, *file) for network in CORRECT for file in FILES]
    gates = {each.name: _gate(each) for each in variants if each.network == "student" and each.format != "torch"}
    return Report(
        name=name,
        recipe=recipe(name, seed),
        status="failed",
        created="2026-11-20T12:00:00Z",
        seconds=171.4,
        classes=tuple("0123456789"),
        images={"train": 1221, "validation": 216, "test": 360},
        variants=tuple(variants),
        gates=gates,
        stages=_stages(chance),
        environment=Environment(
            packages={"torch": "2.13.0", "onnxruntime": "1.24.1", "openvino": "2026.1.0", "numpy": "2.3.1"},
            python="3.11.2",
            platform="Linux-6.1-x86_64",
            cpu="Intel Xeon, Sapphire Rapids",
            cores_physical=1,
            cores_logical=2,
            memory_bytes=8 << 30,
            facts={"governor": "unavailable", "turbo": "unavailable", "load": "0.42", "cgroup quota": "2.0 cores"},
        ),
        notes=("The machine is virtual: neither clock frequency nor temperature could be read.",),
    )


def with_seeds(report: Report, *, seeds: int = 3, gain: int = 0, test_key: str = "digits") -> Report:
    """Return the report of the same run with several seeds of students, the student right on `gain` more images."""
    chance = np.random.default_rng(int(report.recipe["seed"]))
    scores = tuple(
        Scores(
            network=network,
            method=METHODS[network],
            seeds=tuple(
                _score(chance, correct + (gain if network == "student" else 0), seed=seed)
                for seed in range(1 if network == "teacher" else seeds)
            ),
        )
        for network, correct in CORRECT.items()
    )
    return report.model_copy(update={"scores": scores, "paired": paired.compare_all(scores), "test_key": test_key})


def _score(chance: np.random.Generator, correct: int, *, seed: int) -> SeedScore:
    """Return answers of which about that many are right, the first images being easy and the last hard."""
    right = np.arange(360) < correct
    right[chance.integers(0, 360, size=4)] ^= True
    accuracy = Accuracy.from_hits(int(right.sum()), 360)
    return SeedScore(seed=seed, validation=Accuracy.from_hits(200, 216), accuracy=accuracy, correct=paired.pack(right))


def recipe(name: str, seed: int) -> dict[str, object]:
    """Return the recipe of the sample."""
    return {
        "name": name,
        "seed": seed,
        "data": {"source": "digits", "image_size": 16, "validation_fraction": 0.15},
        "teacher": [{"model": "resnet_cifar.resnet32", "train": {"epochs": 15}}],
        "student": {"model": "resnet_cifar.resnet8"},
        "method": [{"name": "dih", "logit_loss": "dist"}],
        "train": {"epochs": 30, "lr": 0.1},
        "exports": [{"format": "onnx", "precision": "fp32"}, {"format": "openvino", "precision": "fp16"}],
    }


def _variant(chance: random.Random, network: str, form: str, runtime: str, precision: str) -> Variant:
    teacher, name = network == "teacher", f"{network}-{form}-{precision}"
    broken = name == "student-openvino-fp16"
    correct = CORRECT[network] + chance.choice((-1, 0, 0, 1)) - (41 if broken else 0)
    unstable = name == "kd-openvino-fp16"
    speed = {"torch": 3.4, "onnxruntime": 6.8, "openvino": 5.9}[runtime]
    p50 = BASE_MS[runtime] * (speed if teacher else 1) * chance.uniform(0.985, 1.015)
    size_bytes = int((1_870_000 if teacher else 318_000) * (0.52 if precision == "fp16" else 1))
    ratio = _ratio(f"teacher-{form}-{precision}", speed, unstable=unstable, same=name == "kd-torch-fp32")
    return Variant.model_validate({
        "name": name, "network": network, "method": METHODS[network],
        "format": form, "runtime": runtime, "precision": precision,
        "device": "local", "parameters": 464_154 if teacher else 77_754, "macs": 17_400_000 if teacher else 3_120_000,
        "size_bytes": None if form == "torch" else size_bytes,
        "accuracy": Accuracy.from_hits(correct, 360), "validation": Accuracy.from_hits(round(correct * 0.6), 216),
        "agreement_percent": None if form == "torch" else 88.3 if broken else 100.0,
        "max_abs_diff": None if form == "torch" else 4.71 if broken else 3.1e-6,
        "latency_ms": _latency(chance, p50, unstable=unstable),
        "ratio": None if teacher else ratio,
        "throughput_per_s": None if form == "torch" else 1000 / p50 * 1.7, "peak_memory_bytes": 112 << 20,
        "effective": {"provider": "CPU", "inference precision": "f32", "threads": "1"}, "status": "passed",
    })  # fmt: skip


def _latency(chance: random.Random, p50: float, *, unstable: bool) -> Latency:
    spread = 0.25 if unstable else 0.012
    rounds = tuple(p50 * (1 + chance.gauss(0, spread)) for _ in range(15))
    return Latency(
        p50=p50, p90=p50 * 1.06, p99=p50 * 1.31, mean=p50 * 1.02, stdev=p50 * 0.07,
        ci95=(p50 * (1 - spread), p50 * (1 + 1.2 * spread)),
        samples=3000, rounds=rounds, first_call=p50 * 2.9, load=41.0, threads=1, batch_size=1, stable=not unstable,
    )  # fmt: skip


def _ratio(against: str, speedup: float, *, unstable: bool, same: bool) -> Ratio:
    if same:
        return Ratio(against=against, speedup=1.01, ci95=(0.97, 1.04), verdict="not distinguishable")
    spread = 0.3 if unstable else 0.03
    ci95 = (speedup * (1 - spread), speedup * (1 + spread))
    return Ratio(against=against, speedup=speedup, ci95=ci95, verdict="unstable" if unstable else "faster")


def _gate(variant: Variant) -> Gate:
    if variant.precision == "fp16":
        reason = "top-1 86.6 % is 11.6 points below the network it came from (gate.max_top1_drop_points 1.0)"
        worst = (17, 4, 181)
        return Gate(
            status="failed",
            reason=reason,
            samples=216,
            agreement_percent=88.4,
            max_abs_diff=4.71,
            top1_drop_points=11.6,
            worst_images=worst,
        )
    return Gate(status="passed", reason="", samples=216, agreement_percent=100.0, max_abs_diff=3.1e-6, top1_drop_points=0.0)


def _stages(chance: random.Random) -> tuple[StageResult, ...]:
    members = {f"head{index}": Accuracy.from_hits(hits, 216) for index, hits in enumerate((181, 203, 212))}
    terms = {"dist.teacher": 0.5, "dist.head0": 0.9, "dist.head1": 0.7, "dist.head2": 0.55}
    heads = {"ce.head0": 2.4, "ce.head1": 2.1, "ce.head2": 1.8}
    return (
        _stage(chance, "teacher", "supervised", starts={"ce": 2.2}, epochs=15, top1=98.6),
        _stage(chance, "heads", "dih(dist)", starts=heads, epochs=20, top1=92.0).model_copy(update={"members": members}),
        _stage(chance, "student", "dih(dist)", starts={"ce": 2.3, **terms}, epochs=30, top1=98.1),
        _stage(chance, "baseline-supervised", "supervised", starts={"ce": 2.3}, epochs=30, top1=95.8),
        _stage(chance, "baseline-kd", "kd", starts={"ce": 0.9, "kd.teacher": 9.1}, epochs=30, top1=97.0),
    )


def _stage(
    chance: random.Random, stage: str, method: str, *, starts: dict[str, float], epochs: int, top1: float
) -> StageResult:
    history = []
    for epoch in range(1, epochs + 1):
        losses = {term: start * (0.04 + math.exp(-epoch / 4)) * chance.uniform(0.93, 1.07) for term, start in starts.items()}
        losses["total"] = sum(losses.values())
        validation = min(100.0, top1 - (top1 - 12) * math.exp(-epoch / 3) + chance.gauss(0, 0.4))
        history.append(Epoch(stage=stage, epoch=epoch, lr=0.1, losses=losses, validation_percent=validation, seconds=1.4))
    best = max(history, key=lambda each: each.validation_percent or 0.0)
    correct = round(216 * (best.validation_percent or 0.0) / 100)
    return StageResult(
        stage=stage, key=SHA, method=method, parameters=77_754, macs=3_120_000, best_epoch=best.epoch,
        validation=Accuracy.from_hits(correct, 216), epochs=tuple(history), seconds=1.4 * epochs,
        files={"weights.safetensors": SHA},
    )  # fmt: skip
