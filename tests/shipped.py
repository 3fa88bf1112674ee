"""Which of the shipped examples a running ComfyUI is too old for."""

import json
from pathlib import Path

import pytest

WORKFLOWS = Path(__file__).parents[1] / "workflows"


def skip_older(name: str, info: dict) -> None:
    """Skip the test if this ComfyUI lacks a node of its own that the example needs, or a type of
    text encoder.

    info: what the server says at /object_info.
    """
    nodes = json.loads((WORKFLOWS / "api" / f"{name}.json").read_text()).values()
    lacking = sorted({node["class_type"] for node in nodes} - info.keys())
    if lacking and not any(kind.startswith("Vitruvian") for kind in lacking):
        pytest.skip(f"this ComfyUI has no {', '.join(lacking)}")
    encoder_types = {node["inputs"]["type"] for node in nodes if node["class_type"] == "CLIPLoader"}
    if unknown := encoder_types - set(info["CLIPLoader"]["input"]["required"]["type"][0]):
        pytest.skip(f"this ComfyUI has no text encoder of the type {', '.join(unknown)}")
