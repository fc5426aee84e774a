"""Whether our timings are those that the runtimes' own tools and plain loops tell; `__main__.py` runs it."""
