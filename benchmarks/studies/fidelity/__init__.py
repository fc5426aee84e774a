"""Compare our latencies with those of the runtimes' own tools and of plain loops; `__main__.py` runs it."""
