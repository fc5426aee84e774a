"""Images per second of our training steps, beside plain training and torchdistill."""
