"""What the gate says of good and of damaged files of small trained segmenters; `__main__.py` is the command."""
