"""Programs that lie in a bundle and run without this tool: `predict.py` and a C++ example."""
