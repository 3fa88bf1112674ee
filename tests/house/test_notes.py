"""Every example workflow says which models it needs and where they go."""

import json
from pathlib import Path

import pytest

SHIPPED = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
FOLDERS = (
    "checkpoints", "clip_vision", "controlnet", "diffusion_models", "loras", "model_patches",
    "text_encoders", "vae", "vitruvian",
)  # fmt: skip


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_note_names_the_models(path):
    nodes = json.loads(path.read_text())["nodes"]
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    values = [value for node in nodes for value in node.get("widgets_values") or ()]
    files = {value for value in values if str(value).endswith(".safetensors")}
    assert files
    for file in files:
        (line,) = [line for line in note.splitlines() if f"`{file}`" in line]
        assert any(line.endswith(f"`models/{folder}`") for folder in FOLDERS)
    ours = all(file.startswith("vitruvian_mini") for file in files)
    assert ("come with Vitruvian" in note.split("**Models.**")[1]) == ours


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_front_end_can_offer_the_models(path):
    """Where files of others are needed, their node says whence they come, and the note agrees. Only
    a file of the artist's own, `my_...`, has no address.
    """
    nodes = json.loads(path.read_text())["nodes"]
    (note,) = [node["widgets_values"][0] for node in nodes if node["type"] == "MarkdownNote"]
    for node in nodes:
        values = [str(value) for value in node.get("widgets_values") or ()]
        files = {value for value in values if value.endswith(".safetensors")}
        others = {file for file in files if not file.startswith(("vitruvian_mini", "my_"))}
        models = {model["name"]: model for model in node["properties"].get("models", ())}
        assert models.keys() == others
        for file, model in models.items():
            assert model["url"].startswith("https://huggingface.co/")
            assert model["url"].endswith(".safetensors")
            (line,) = [line for line in note.splitlines() if f"`{file}`" in line]
            assert line.endswith(f"`models/{model['directory']}`")
