"""Run a saved ComfyUI workflow over a table, through ComfyUI's web interface only."""

__version__ = "0.1.0"
