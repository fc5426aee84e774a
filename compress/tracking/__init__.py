"""Trackers: pass what a run learns on to a program that draws it; nothing leaves this machine unless one is told to.

A recipe names them in `track:`. Other packages add some by the entry point `compress.trackers`.
"""

from compress.tracking._follow import follow_run, require_trackers
from compress.tracking._tracker import TrackedRun, Tracker

__all__ = ["TrackedRun", "Tracker", "follow_run", "require_trackers"]
