"""The gate: compare a file with the network it was made of, and find out why they differ."""
