"""Verdicts on latency as JUnit's XML, which the services that run tests show."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Tree

from compress.deployed.latency_gate import FileVerdict, LatencyVerdicts
from compress.system.files import writable
from compress.text import escape_commands

SUITE = "latency"


def write_junit(path: Path, found: LatencyVerdicts) -> None:
    """Write one test case for each file: failed where it is too slow, skipped where that cannot be said.

    Raises:
        Unwritable: The file cannot be written.
    """
    counts = [verdict.verdict for verdict in found.verdicts.values()]
    skipped = len(counts) - counts.count("pass") - counts.count("fail")
    suite = Tree.Element(
        "testsuite", name=SUITE, tests=str(len(counts)), failures=str(counts.count("fail")), skipped=str(skipped), errors="0"
    )
    for name, verdict in found.verdicts.items():
        _add_case(suite, name, verdict, found)
    with writable(path.parent):
        path.write_bytes(Tree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _add_case(suite: Tree.Element, name: str, verdict: FileVerdict, found: LatencyVerdicts) -> None:
    timing = found.timings[name]
    seconds = f"{timing.latency_ms.p50 / 1000:.6f}"
    names = {"classname": escape_commands(timing.runtime), "name": escape_commands(name)}
    case = Tree.SubElement(suite, "testcase", names, time=seconds)
    if verdict.verdict == "fail":
        Tree.SubElement(case, "failure", message=escape_commands(verdict.reason))
    elif verdict.verdict != "pass":
        Tree.SubElement(case, "skipped", message=escape_commands(f"{verdict.verdict}: {verdict.reason}"))
    low, high = verdict.ci95_percent
    text = (
        f"{verdict.slower_percent:+.2f} % ({low:+.2f} to {high:+.2f} %) against {verdict.baseline}, {verdict.compared}; "
        f"{found.max_slower_percent:g} % allowed"
    )
    Tree.SubElement(case, "system-out").text = escape_commands(text)
