"""Command line: click commands, terminal tables, `list` and `doctor`.

Nothing is imported before the command line starts, so that a module of this package can be used without it.
"""


def main() -> None:
    """Run the command line."""
    from compress.cli import commands

    commands.main()
