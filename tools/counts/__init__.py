"""What `dev.py lint` counts in the source, one question a module."""
