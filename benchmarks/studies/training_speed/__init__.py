"""Training_speed."""
