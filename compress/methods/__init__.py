"""Distillation methods, one file each, and their contract: `Method`, built from a `Setting`, called with a `Step`."""

from compress.methods._combined import Combined
from compress.methods._method import Method, Setting, needs_teacher
from compress.methods._step import Features, Forward, Signal, Step, Targets

__all__ = ["Combined", "Features", "Forward", "Method", "Setting", "Signal", "Step", "Targets", "needs_teacher"]
