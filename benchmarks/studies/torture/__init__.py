"""Torture: kill runs, mutate recipes, damage artefacts and sabotage finished runs, and count what came of it."""
