"""What `dev.py` does. Standard library only until a command runs inside its environment.

`server.py` and `progress.py` are imported there only; they talk to ComfyUI through libraries.
"""
