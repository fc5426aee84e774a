"""The environment of a measurement as a record: packages, processor, and whatever may change a latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
from pydantic import ValidationError

from benchmarks.machine import read_machine
from compress.errors import Unreachable
from compress.records import Environment
from compress.text import escape_commands

LONGEST_FACT = 300
"""Letters of a fact; a device may answer anything."""
MOST_FACTS = 100


def read_environment() -> Environment:
    """Return packages, CPU, memory and the facts that a reader of latencies must know, of this machine."""
    found = read_machine()
    found["cores_physical"] = found["cores_physical"] or psutil.cpu_count(logical=False)
    found["memory_bytes"] = found["memory_bytes"] or psutil.virtual_memory().total
    return Environment(**found)


def make_environment(found: Mapping[str, Any], facts: Mapping[str, str] = {}) -> Environment:
    """Return the record of what a runner told of its machine; a device is not trusted with more than short plain texts.

    Args:
        found: As `benchmarks.machine.read_machine` gives it.
        facts: What is known beside its facts.

    Raises:
        Unreachable: It is something else.
    """
    try:
        record = Environment(**{**found, "memory_bytes": found.get("memory_bytes") or 0})
    except (TypeError, ValidationError) as error:
        raise Unreachable(f"the device: does not tell what it is ({str(error)[:LONGEST_FACT]!r}); prepare it again") from error
    return record.model_copy(
        update={
            "packages": _shorten(record.packages), "facts": _shorten(record.facts) | dict(facts),
            **_shorten({name: getattr(record, name) for name in ("python", "platform", "cpu")}),
        }
    )  # fmt: skip


def _shorten(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the first of some texts by name, cut and without what commands a terminal."""
    few = list(texts.items())[:MOST_FACTS]
    return {escape_commands(name[:LONGEST_FACT]): escape_commands(text[:LONGEST_FACT]) for name, text in few}
