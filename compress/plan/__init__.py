"""Plan a run and find every contradiction in its recipe, before anything is done and without torch."""
