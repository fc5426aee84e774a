"""Compress vision models for edge devices: distil, export, prove, measure."""

__version__ = "0.1.0"
