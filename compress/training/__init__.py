"""The one training loop and its parts: optimizer, checkpoint, compilation, evaluation, checks before training."""
