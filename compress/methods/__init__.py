"""Distillation methods, one file each, and their contract: `Method`, built from a `Setting`, called with a `Step`."""

from compress.methods._combined import Combined
from compress.methods._method import Method, Setting, refuse_boxes, refuse_dense, refuse_ignored_teacher, require_teacher
from compress.methods._step import Forward, LazyFeatures, Signal, Signals, Step

__all__ = [
    "Combined",
    "Forward",
    "LazyFeatures",
    "Method",
    "Setting",
    "Signal",
    "Signals",
    "Step",
    "refuse_boxes",
    "refuse_dense",
    "refuse_ignored_teacher",
    "require_teacher",
]
