"""A module for every command of `dev.py`, each with `run(options)` that returns the exit status."""
