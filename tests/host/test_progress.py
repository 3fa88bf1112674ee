"""Nodes that work through a batch: the bar ends at the last of its items, and Cancel stops before
the next one.
"""

from functools import cache
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest
import torch
from vitruvian.host import part_encoder
from vitruvian.tests.host import batches

ITEMS = 3
WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
FAST = {  # nodes that make no loop of their own over items that take time, and why
    "VitruvianPickPeople": "numbers only",
    "VitruvianMergePeople": "numbers only",
    "VitruvianPoseEditor": "one image",
    "VitruvianAddInstance": "keeps its mask as it is",
    "VitruvianInstancesFromMasks": "the texts take the time, once for all images",
    "VitruvianInstancesFromBoxes": "the texts take the time, once for all images",
    "VitruvianInstancesFromParts": "the texts take the time, once for all images",
    "VitruvianSplitStructure": "views of latents",
    "VitruvianJoinStructure": "one call for all",
    "VitruvianAddPartToSemanticMap": "one call for all",
    "VitruvianTrainHumanPrior": "counts steps: test_human_prior_training.py",
}
NO_SAMPLER = {"VitruvianPredictHandMasks", "VitruvianShowHumanAttention"}
SAMPLED = {  # patches: the host's sampler counts its steps
    node for node, case in batches.NODES.items() if batches.LATENT in case.items
} - NO_SAMPLER
COUNTING = sorted(batches.NODES.keys() - FAST.keys() - SAMPLED)
LOOKING = {"VitruvianDetectPose"}  # is stopped within an image: test_detect_pose.py


@cache
def image_encoder():
    return part_encoder.load(WEIGHTS / "clip_vision" / "vitruvian_mini_vision.safetensors")


def encoded(node_id):
    return batches.outputs_of(node_id, clip_vision=image_encoder())


def run(node_id):
    """Run a node with ITEMS items of each input, to its end."""
    case = batches.NODES[node_id]
    execute = case.run
    if node_id in ("VitruvianBuildMemory", "VitruvianAppearanceFromImage"):
        execute = encoded(node_id)
    elif node_id == "VitruvianSaveStructureData":
        execute = batches.outputs_of(node_id)
    execute({name: batches.joined(items[:ITEMS]) for name, items in case.items.items()})


@pytest.fixture(autouse=True)
def inference(mini_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    with torch.inference_mode():
        yield


@pytest.fixture
def reports(monkeypatch):
    """(value, total) of every step of a bar, of which hosts show only some."""
    steps, update = [], comfy.utils.ProgressBar.update_absolute

    def counted(self, value, total=None, preview=None):
        steps.append((value, total or self.total))
        update(self, value, total, preview)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", counted)
    yield steps
    comfy.model_management.interrupt_current_processing(False)


def test_every_node_with_items_of_a_batch_is_sorted():
    assert FAST.keys() <= batches.NODES.keys() and LOOKING <= {*COUNTING}
    assert len(COUNTING) >= 15


@pytest.mark.parametrize("node_id", COUNTING)
def test_the_bar_ends_at_the_last_item(node_id, reports):
    run(node_id)
    value, total = reports[-1]
    assert value == total and total % ITEMS == 0
    assert len(reports) >= ITEMS


@pytest.mark.parametrize("node_id", sorted({*COUNTING} - LOOKING))
def test_cancel_stops_before_the_next_item(node_id, reports, monkeypatch):
    """The bar itself says nothing of it, because hosts differ in how often it asks."""

    def cancelled(self, value, total=None, preview=None):
        reports.append((value, total))
        comfy.model_management.interrupt_current_processing(True)

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(node_id)
    assert len(reports) == 1
