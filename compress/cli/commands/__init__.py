"""`compress`: parse, call one function, print; a file for each group of commands.

Every command has the common options and error messages of `compress.cli.terminal`. Nothing but click is imported until a
command runs, so `--help`, `--version` and completion answer at once.
"""

import sys

import click

from compress import __version__
from compress.cli.commands import deployed, device, export, reports, run, setup
from compress.cli.terminal import Program, open_closed_streams, prepare_streams, report_bug

__all__ = ["main", "program"]

ABOUT = """Distil a small vision model from a large one, export it, prove that the file still works, measure it.

\b
Start:       compress init, compress check recipe.yaml, compress run recipe.yaml
Exit codes:  0 good, 1 our bug, 2 bad recipe or usage, 3 gate failed,
             4 measurement unstable, 5 a device, file or package could not be
             reached, 130 interrupted (state saved)
"""


@click.group(cls=Program, help=ABOUT, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def program() -> None:
    """Hold the commands."""


for command in (
    run.run, run.check, export.export, deployed.verify, deployed.bench, device.device, deployed.predict,
    reports.compare, reports.report_, setup.list_, setup.init, setup.schema, setup.doctor,
):  # fmt: skip
    program.add_command(command)  # in the order in which one needs them


def main() -> None:
    """Run the command line; unexpected errors say that they are ours."""
    sys.excepthook = report_bug
    open_closed_streams()
    prepare_streams()
    program()
