"""Runs a saved ComfyUI workflow over a table. Knows the host by its web interface only."""

__version__ = "0.1.0"
