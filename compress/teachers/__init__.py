"""Outputs of frozen teachers: which are needed, inference engines, the on-disk store, and who provides them to a stage."""
