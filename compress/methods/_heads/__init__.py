"""Classifier heads on the layers of teachers: how they are built, and the stage that trains them."""
