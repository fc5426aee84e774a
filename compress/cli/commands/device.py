"""`compress device`: prepare a board, show it, list what lies on it, remove it.

Each verb calls the method of `benchmarks.devices.Board` that is named after it; a device without that method says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from compress.cli.terminal import Terminal, make_common_options
from compress.errors import CompressError

if TYPE_CHECKING:
    from rich.table import Table

    from benchmarks.devices import BoardJob

F = TypeVar("F", bound=Callable[..., Any])


class InOrder(click.Group):
    """A group that lists its commands in the order in which one needs them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the commands."""
        return list(self.commands)


@click.group("device", cls=InOrder)
def device() -> None:
    """Prepare, show and clean a board, such as ssh://pi@pi4."""


device.params += make_common_options()


def add_verb(name: str) -> Callable[[F], click.Command]:
    """Return a decorator that adds a verb with the address of a device and the common options."""

    def decorate(function: F) -> click.Command:
        command = device.command(name)(click.argument("address", metavar="URI")(click.pass_obj(function)))
        command.params += make_common_options()
        return command

    return decorate


def find_verb(address: str, verb: str) -> Callable[..., Any]:
    """Return a method of the device at an address.

    Raises:
        CompressError: There is no such device, or it has no such method.
    """
    from benchmarks.devices import open_device

    method: Callable[..., Any] | None = getattr(open_device(address), verb, None)
    if method is None:
        raise CompressError(f"{address}: keeps nothing of ours, so there is nothing to do; give the address of a board")
    return method


@add_verb("prepare")
def prepare(terminal: Terminal, *, address: str) -> None:
    """Make on a board what jobs need, and prove that it works.

    What is there already and as it should be is left alone.
    """
    find_verb(address, "prepare")(terminal.events().say)
    terminal.write_result({"device": address, "prepared": True}, f"{address}: is ready")
    terminal.hint(f"compress bench FILE --device {address}")


@add_verb("show")
def show(terminal: Terminal, *, address: str) -> None:
    """Show what a board is, has, and does not tell."""
    facts = find_verb(address, "describe")()
    terminal.write_result({"device": address, "facts": facts}, draw_facts(facts))
    is_bare = facts.get("packages", "none") == "none"
    terminal.hint(f"compress device prepare {address}" if is_bare else f"compress bench FILE --device {address}")


@add_verb("jobs")
@click.option("--stop", metavar="JOB", help="End this job there, whoever started it, and remove it.")
def jobs(terminal: Terminal, *, address: str, stop: str | None) -> None:
    """List the jobs that run or lie on a board, or end one."""
    if stop is not None:
        find_verb(address, "stop_job")(stop)
        terminal.write_result({"device": address, "stopped": stop}, f"{address}: job {stop} was ended and removed")
        return
    found = find_verb(address, "list_jobs")()
    terminal.write_result(found, draw_jobs(found) if found else f"{address}: no job of ours is there")
    terminal.hint("compress bench --attach ID fetches one")


@add_verb("clean")
@click.option("--all", "everything", is_flag=True, help="Also what `device prepare` made: all of ours.")
def clean(terminal: Terminal, *, address: str, everything: bool) -> None:
    """Remove from a board the jobs and files that were sent there."""
    removed = find_verb(address, "clean")(everything=everything)
    terminal.write_result({"device": address, "removed": removed}, *(removed or [f"{address}: there was nothing of ours"]))


def draw_facts(facts: dict[str, str]) -> Table:
    """Return what is known of a board, a line each."""
    from compress.cli.tables import make_table

    table = make_table("what", "found")
    for what, found in facts.items():
        table.add_row(what, found)
    return table


def draw_jobs(found: list[BoardJob]) -> Table:
    """Return the jobs on a board, a line each."""
    from compress.cli.tables import make_table
    from compress.text import format_bytes

    table = make_table("job", "state", "started by", "since (UTC)", "size", right=("size",))
    for job in found:
        table.add_row(job.id, job.state, job.host, job.since, format_bytes(job.size_bytes))
    return table
