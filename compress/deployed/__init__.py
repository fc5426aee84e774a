"""Finished files: verify, measure, classify pictures with them, or locate the layer in which one goes wrong."""
