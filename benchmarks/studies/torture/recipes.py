"""Mutated recipes: each is planned, or refused in words; none ends in anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.studies.torture.damage import DAMAGES
from compress import recipe
from compress.errors import CompressError
from compress.plan.plan import make_plan
from compress.text import escape_commands

TINY = """\
name: tiny
seed: 0
data: {source: digits, image_size: 8, validation_fraction: 0.2, train_images: 300}
teacher: {model: 'benchmarks.studies.torture.networks:build_tiny', train: {epochs: 2}}
student: {model: 'benchmarks.studies.torture.networks:build_tiny'}
method: kd
teacher_outputs: {store: "on", engine: eager}
train: {epochs: 2, batch_size: 64, state_seconds: 0}
exports: [{format: onnx, precision: fp32}]
gate: {max_top1_drop_points: 20.0, min_agreement: 0.5, max_abs_diff: 50}
measure: {devices: [local], against: student, rounds: 5, seconds: 0.05, launches: 1}
"""
"""A recipe whose run takes a second or two, and that this study runs too."""

LONG = """\
name: long
seed: 3
data:
  source: digits
  image_size: 8
  validation_fraction: 0.15
  crop_padding: 1
  views: 2
teacher:
  - {model: resnet_cifar.resnet8, train: {epochs: 2, lr: 1e-1}}
  - {model: wide_resnet.wrn_16_1}
student: {model: resnet_cifar.resnet8}
method: [{name: dih, logit_loss: dist, temperature: 4, heads_epochs: 2}]
baselines: [supervised, kd, [{name: dist, inter_weight: 1.0}]]
train: {epochs: 3, state_seconds: 0, batch_size: 64, schedule: cosine, warmup_epochs: 0.5}
exports:
  - {format: onnx, precision: fp32}
  - {format: onnx, precision: int8}
  - {format: openvino, precision: fp16}
int8: {calibration_images: 50, rung: default}
gate: {max_top1_drop_points: 20.0, min_agreement: 0.5, max_abs_diff: 50}
measure: {devices: [local], threads: 1, against: teacher, rounds: 5, seconds: 0.2}
"""

VALUES = (
    "", "null", "~", "true", "no", "0", "-0.0", "-1", "1e999", "-1e999", ".nan", ".inf", "1_000", "0x1F", "0o17", "1e-320",
    "2147483648", "9223372036854775808", "9" * 400, "[]", "{}", "[[]]", "[[[[[[1]]]]]]", "{a: {b: {c: 1}}}", "''", "' '", "é",
    '"\\0"', '"\\e[31m"', '"\\uD800"', '"\\u202E"', "日本", "../../etc", "/dev/null", "kd", "[kd, kd]", "[dih, fitnet]",
    "{name: kd}", "{kd: 1}", "auto", "on", "off", "fp16", "int8", "&a [*a]", "*nothing", "!!python/object:os.system {}",
    "!!binary aGk=", "2024-01-01", "12:30:45", "<<: {}", "|", ">", "- a", "a: b", "'", '"', "{", "[", "%", "@", "`", "?", "#",
    "x" * 5000, "0.1 %", "1,5", "digits", "timm.resnet18", "2", "1", "0.5", "3",
)  # fmt: skip
FIELDS = (
    "name", "seed", "data", "teacher", "student", "method", "train", "exports", "gate", "measure", "epochs", "lr", "batch_size",
    "epoch", "__class__", "model_config", "options", "weights", "sha256", "views", "threads", "temperature", "<<", "1", "null",
)  # fmt: skip


def _replace_value(line: str, random: Random) -> str:
    head, colon, _ = line.partition(":")
    return f"{head}{colon} {random.choice(VALUES)}" if colon else line + random.choice(VALUES)


def _replace_token(line: str, random: Random) -> str:
    tokens = line.split(" ")
    tokens[random.randrange(len(tokens))] = random.choice((*VALUES, *FIELDS))
    return " ".join(tokens)


def _rename_field(line: str, random: Random) -> str:
    head, colon, tail = line.partition(":")
    indent = head[: len(head) - len(head.lstrip())]
    return f"{indent}{random.choice(FIELDS)}{colon}{tail}"


def _indent(line: str, random: Random) -> str:
    return random.choice((" ", "  ", "\t", "    - ", "- ")) + line


LINES: tuple[Callable[[str, Random], str], ...] = (_replace_value, _replace_token, _rename_field, _indent)


def mutate(random: Random) -> bytes:
    """Return a recipe with one to four mutations of its lines, their order or its bytes."""
    lines = random.choice((TINY, LONG)).splitlines()
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        place, kind = random.randrange(len(lines)), random.randrange(10)
        if kind < 6:
            lines[place] = random.choice(LINES)(lines[place], random)
        elif kind == 6:
            lines.insert(random.randrange(len(lines)), lines[place])
        elif kind == 7 and len(lines) > 1:
            del lines[place]
        elif kind == 8:
            other = random.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        else:
            lines.append(f"{random.choice(FIELDS)}: {random.choice(VALUES)}")
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return random.choice(list(DAMAGES.values()))(content, random) if random.random() < 0.1 else content


def try_recipe(content: bytes, folder: Path) -> str:
    """Plan a recipe and return what came of it: `planned`, `refused`, or what is wrong, which begins with `fault`."""
    try:
        make_plan(recipe.parse(content, "recipe.yaml"), base=folder, runs=folder / "runs")
    except CompressError as error:
        return _judge_message(str(error))
    except Exception as error:  # noqa: BLE001 (what this study looks for)
        return f"fault: {type(error).__name__}: {error}"
    return "planned"


def _judge_message(message: str) -> str:
    if not message.strip():
        return "fault: a refusal without words"
    if len(message) > 20_000:
        return f"fault: a refusal of {len(message)} characters"
    escape_commands(message).encode()
    return "refused"
