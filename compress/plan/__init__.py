"""What a run will do, and every contradiction in its recipe, found before anything is done and without torch."""
