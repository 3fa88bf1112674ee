"""The shipped workflows through POST /prompt, on the mini weights and on an SD1.5."""

import time
from pathlib import Path

import numpy
import pytest
from PIL import Image
from vitruvian.batch.vitruvian_batch.trouble import Trouble
from vitruvian.tests.shipped import skip_older

SHIPPED = Path(__file__).parents[2] / "workflows" / "api"
OTHERS = {"two_characters_sdxl", "people_from_a_photograph_sdpose"}
# and those without a checkpoint are in test_family_templates.py
NAMES = sorted(
    path.stem
    for path in SHIPPED.glob("*.json")
    if "CheckpointLoaderSimple" in path.read_text() and path.stem not in OTHERS
)
MINI = {
    "ckpt_name": "vitruvian_mini.safetensors",
    "control_net_name": "vitruvian_mini_openpose.safetensors",
}

IMAGE_COUNTS = {  # saved by a workflow, where it is not one
    "human_prior": 2, "structure_refined": 4, "structure_relight": 4, "structure_swap_pose": 2,
    "appearance": 2, "appearance_edit": 2, "appearance_from_image": 2, "appearance_memory": 4,
    "change_one_person": 2, "structure_inpaint": 3, "structure_training_data": 4,
}  # fmt: skip
LATENTS = ("EmptyLatentImage", "VitruvianEmptyStructureLatent")

# workflows whose own weights fit no other model, and what they say to another
OTHER_TEXT = "The structure model reads texts of 192 numbers a word, this prompt has 768"
OTHER_PRIOR = "Apply Human Prior: vitruvian_mini_human_prior.* was trained for another model"
OTHER_MEMORY = "Retrieve Appearance: the memory's text projection takes 192 numbers and the CLIP"
OTHER_LORA = "LoRA 'vitruvian_mini_orange_tops.safetensors' is for another kind of model"
OTHER_APPEARANCE = "Apply Appearance: vitruvian_mini_appearance.* was trained for another model"
TRAINED_FOR_MINI = {
    "appearance": OTHER_MEMORY,
    "appearance_edit": OTHER_MEMORY,
    "appearance_from_image": OTHER_APPEARANCE,
    "appearance_own_map": OTHER_MEMORY,
    "appearance_regions": OTHER_MEMORY,
    "hand_generator": "Apply Hand Generator: .*of 64 channels, but the model has 320",
    "human_prior": OTHER_PRIOR,
    "human_prior_controlnet": OTHER_PRIOR,
    "human_prior_lora": OTHER_PRIOR,
    "human_prior_people": OTHER_PRIOR,
    "structure_inpaint": OTHER_TEXT,
    "structure_refined": OTHER_TEXT,
    "structure_relight": OTHER_TEXT,
    "structure_swap_pose": OTHER_TEXT,
    "structure_training_data": OTHER_TEXT,
    "two_characters": OTHER_LORA,
}


def run_afresh(server, workflow):
    """Return every saved image, with nothing taken from the host's cache of earlier runs."""
    for patience in (1, 5, 20):
        server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(patience)  # the worker empties its cache between two prompts, when it gets to it
        prompt = server.queue(workflow)
        outputs = server.wait(prompt)
        events = dict(server.get(f"/history/{prompt}")[prompt]["status"]["messages"])
        if not events["execution_cached"]["nodes"]:
            break
    else:
        pytest.fail("the host kept its cache")
    return [
        numpy.array(Image.open(server.base / "output" / file["subfolder"] / file["filename"]))
        for _, output in sorted(outputs.items())
        for file in output.get("images", ())
        if file["type"] == "output"
    ]


def inputs_of(workflow, kind):
    """List the inputs of all nodes of this class."""
    return [node["inputs"] for node in workflow.values() if node["class_type"] == kind]


def only_inputs_of(workflow, kind):
    """Return the inputs of the only node of this class."""
    (inputs,) = inputs_of(workflow, kind)
    return inputs


def latents_of(workflow):
    """The inputs of all nodes that give an image its size."""
    return sum((inputs_of(workflow, kind) for kind in LATENTS), [])


def sizes_of(workflow):
    """The shapes that images of the workflow may have."""
    sizes = {(latent["height"], latent["width"], 3) for latent in latents_of(workflow)}
    canvases = inputs_of(workflow, "VitruvianPoseEditor")  # Compose People makes a latent like it
    return sizes | {(canvas["canvas_height"], canvas["canvas_width"], 3) for canvas in canvases}


def resize(workflow, side):
    """Give square images this side; others have the proportions of their pose."""
    for latent in latents_of(workflow):
        if latent["width"] == latent["height"]:
            latent.update(width=side, height=side)


def on_mini_weights(workflow):
    """Return the workflow with mini weights, and their size, where its checkpoint does not ship."""
    checkpoint = only_inputs_of(workflow, "CheckpointLoaderSimple")
    if checkpoint["ckpt_name"] != MINI["ckpt_name"]:
        checkpoint["ckpt_name"] = MINI["ckpt_name"]
        only_inputs_of(workflow, "ControlNetLoader")["control_net_name"] = MINI["control_net_name"]
        resize(workflow, 192)
    return workflow


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_image(server, mini_weights, api, name):
    skip_older(name, server.get("/object_info"))
    workflow = on_mini_weights(api(name))
    sizes = sizes_of(workflow)
    first_run, second_run = run_afresh(server, workflow), run_afresh(server, workflow)
    assert (
        len(first_run) == len({image.tobytes() for image in first_run}) == IMAGE_COUNTS.get(name, 1)
    )
    for image in first_run:
        assert image.shape in sizes
        assert image.std() > 5, "the image is one flat color"
    for image, repeated in zip(first_run, second_run, strict=True):
        numpy.testing.assert_array_equal(image, repeated)


def on_sd15_weights(workflow, sd15):
    for node in workflow.values():
        node["inputs"].update((key, file) for key, file in sd15.items() if key in node["inputs"])
        if node["class_type"] in ("KSampler", "VitruvianTrainHumanPrior"):
            node["inputs"]["steps"] = 2
    resize(workflow, 192)
    return workflow


@pytest.mark.parametrize("name", [name for name in NAMES if name not in TRAINED_FOR_MINI])
def test_on_sd15(server, sd15, api, name):
    skip_older(name, server.get("/object_info"))
    workflow = on_sd15_weights(api(name), sd15)
    sizes = sizes_of(workflow)
    sizes.add((192, 192, 3))  # where an image is inpainted
    images = run_afresh(server, workflow)
    assert len(images) == IMAGE_COUNTS.get(name, 1)
    for image in images:
        assert image.shape in sizes
        assert image.std() > 0, "black: the sampler made numbers that are not finite"


@pytest.mark.parametrize("name", TRAINED_FOR_MINI)
def test_weights_for_another_model_are_refused(server, sd15, mini_weights, api, name):
    with pytest.raises(Trouble, match=TRAINED_FOR_MINI[name]):
        server.wait(server.queue(on_sd15_weights(api(name), sd15)))
