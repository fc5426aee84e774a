"""This machine and third-party packages: files, memory, processors, signals, quiet imports."""
