"""Boards that are reached over a shell: what `ssh` and `adb` share, from the transport to jobs, packages and results."""

from benchmarks.devices._remote.board import Remote

__all__ = ["Remote"]
