"""The measuring harness: protocol, comparison, environment, report."""
