"""The examples for today's models, unchanged but for size and steps, on tiny random networks."""

import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest
import torch
from comfy import supported_models
from PIL import Image
from safetensors.torch import load_file, save_file
from vitruvian.batch.vitruvian_batch.trouble import Trouble
from vitruvian.tests.tiny import narrow_host, weights
from vitruvian.tools.examples import copy_images
from vitruvian.tools.hosts import prepare_base
from vitruvian.tools.server import Server

HOST = Path(supported_models.__file__).parents[1]
WORKFLOWS = Path(__file__).parents[2] / "workflows"
FAMILIES = {  # example: ComfyUI's class of the family, which an older one may lack
    "two_people_sdxl": "SDXL",
    "two_people_flux": "Flux",
    "two_people_qwen_image": "QwenImage",
    "two_people_z_image": "ZImage",
    "two_people_flux2_klein": "Flux2",
    "two_people_krea2": "Krea2",
    "two_people_anima": "Anima",
}
CARRYING = {"two_characters_sdxl": "SDXL", "three_people_mixed": "Flux2"}  # the same
OWN_FILES = {"three_people_mixed": [("loras", "my_character_flux2_klein.safetensors")]}
POOLED = {"two_people_flux"}  # the sum of all words, which acts everywhere, outdoes a random text
SDPOSE = "people_from_a_photograph_sdpose"
SIDE, STEPS = 128, 2


@pytest.fixture(scope="module")
def narrow_server(tmp_path_factory):
    """A running ComfyUI that builds the networks as narrow as their random files are."""
    base = tmp_path_factory.mktemp("narrow")
    prepare_base(base)
    node = base / "custom_nodes" / "narrow_host.py"
    narrowing = "NARROWED = narrow()\nNARROWED.__enter__()\n"
    node.write_text(Path(narrow_host.__file__).read_text() + narrowing)
    with Server(Path(sys.executable), HOST, base, "--cpu") as running:
        yield running
    shutil.rmtree(base / "models")


def named_models(name):
    """Yield the folder and the name of every file that the example offers to download."""
    for node in json.loads((WORKFLOWS / f"{name}.json").read_text())["nodes"]:
        for model in node["properties"].get("models", ()):
            yield model["directory"], model["name"]
    yield from OWN_FILES.get(name, ())


def write_models(server, name, family):
    """Write what the example needs, unless this ComfyUI lacks the family."""
    if not hasattr(supported_models, family):
        pytest.skip(f"this ComfyUI does not know the models of {name}")
    for folder, file in named_models(name):
        path = server.base / "models" / folder / file
        if not path.exists():
            weights.write(path)


def reduced(workflow):
    """Return the workflow with a small image and few steps."""
    small = {"width": SIDE, "height": SIDE, "steps": STEPS}
    for node in workflow.values():
        inputs = node["inputs"]
        inputs.update((key, value) for key, value in small.items() if key in inputs)
    return workflow


def run(server, workflow):
    """Return the saved image."""
    outputs = server.wait(server.queue(workflow)).values()
    (file,) = [
        file for output in outputs for file in output.get("images", ()) if file["type"] == "output"
    ]
    path = server.base / "output" / file["subfolder"] / file["filename"]
    return numpy.array(Image.open(path)).astype(int)


def missing_weights(server):
    """List what the loaders did not find in the files, other than the eyes of language models."""
    lines = server.log.read_text(errors="replace").splitlines()
    return [line for line in lines if "missing" in line.lower() and "['visual." not in line]


@pytest.mark.parametrize("name", FAMILIES)
def test_an_example_of_a_family(narrow_server, api, name):
    """Stock loaders take the files, and every person's words act where that person is."""
    write_models(narrow_server, name, FAMILIES[name])
    workflow = reduced(api(name))
    image = run(narrow_server, workflow)
    assert missing_weights(narrow_server) == []
    assert image.shape == (SIDE, SIDE, 3)
    assert image.std() > 5, "the image is one flat color"

    (people,) = [
        node["inputs"]
        for node in workflow.values()
        if node["class_type"] == "VitruvianInstancesFromText"
    ]
    lines = people["prompts"].splitlines()
    for person in range(len(lines)):
        changed_lines = [*lines[:person], "a blue horse and a green tree,", *lines[person + 1 :]]
        people["prompts"] = "\n".join(changed_lines)
        changed = abs(run(narrow_server, workflow) - image).mean(axis=(0, 2))
        left, right = changed[: SIDE // 2].mean(), changed[SIDE // 2 :].mean()
        here, elsewhere = (right, left) if person else (left, right)
        assert here > 0.1, f"the words of person {person + 1} change nothing"
        assert here > elsewhere or name in POOLED, f"the words of person {person + 1} are elsewhere"


def inputs_of(workflow, kind):
    return [node["inputs"] for node in workflow.values() if node["class_type"] == kind]


def places_of(workflow):
    """Return where the people are from left to right, as shares of the image's width."""
    (chosen,) = inputs_of(workflow, "VitruvianLoadPose")
    file = WORKFLOWS / "poses" / chosen["pose_name"].removesuffix(" [example]")
    frame = json.loads(file.read_text())
    frame = frame[0] if isinstance(frame, list) else frame
    columns = [
        numpy.mean([x for x in person["pose_keypoints_2d"][::3] if x]) for person in frame["people"]
    ]
    return numpy.sort(columns) / frame["canvas_width"]


def assert_acts_on(person, places, before, after):
    """What has changed is where this person is, more than where anybody else is."""
    changed = abs(after - before).mean(axis=(0, 2))
    at = [changed[max(0, int(SIDE * (x - 0.1))) : int(SIDE * (x + 0.1))].mean() for x in places]
    assert at[person] > 0.1, f"what person {person + 1} carries changes nothing"
    elsewhere = [value for number, value in enumerate(at) if number != person]
    assert at[person] > max(elsewhere), f"what person {person + 1} carries is elsewhere: {at}"


@pytest.mark.parametrize("name", CARRYING)
def test_what_each_person_carries_acts_on_that_person(narrow_server, api, name):
    write_models(narrow_server, name, CARRYING[name])
    copy_images(narrow_server.base)
    workflow = reduced(api(name))
    image = run(narrow_server, workflow)
    assert missing_weights(narrow_server) == []
    assert image.std() > 5, "the image is one flat color"
    places = places_of(workflow)
    for person, instance in enumerate(inputs_of(workflow, "VitruvianAddInstance")):
        for carried in {"lora", "reference"} & instance.keys():
            link = instance.pop(carried)
            assert_acts_on(person, places, image, run(narrow_server, workflow))
            instance[carried] = link


def find_people_at_anchors(path):
    """Let a random RT-DETR call whatever it looks at a person, in a tall box around its anchor."""
    from comfy.ldm.rt_detr.rtdetr_v4 import RTv4

    tensors, computed = load_file(path), RTv4(enc_h=64, operations=torch.nn).decoder.state_dict()
    for name in ("decoder.project", "up", "reg_scale", "anchors", "valid_mask"):
        tensors[f"decoder.{name}"] = computed[name].clone()
    for name, tensor in tensors.items():
        if "bbox_head" in name and ".layers.2." in name:
            tensor.zero_()  # moves no side of a box
    tensors["decoder.pre_bbox_head.layers.2.bias"] += torch.tensor([0.0, 0.0, 1.0, 4.0])
    tensors["decoder.dec_score_head.5.bias"][0] += 10.0  # the first class is the person
    save_file(tensors, path)


def test_the_host_s_own_detectors_find_the_people(narrow_server, api):
    """RT-DETR's boxes and SDPose's 133 points of each reach Compose Instances as they come."""
    write_models(narrow_server, SDPOSE, "RT_DETR_v4")
    models = narrow_server.base / "models"
    find_people_at_anchors(models / "diffusion_models" / "rt_detr_v4-x-hgnet_fp16.safetensors")
    files = {
        "ckpt_name": ("checkpoints", "sd_xl_base_1.0.safetensors"),
        "control_net_name": ("controlnet", "controlnet-openpose-sdxl-1.0.safetensors"),
    }
    copy_images(narrow_server.base)
    workflow = api(SDPOSE)
    workflow["10"]["inputs"]["steps"] = STEPS
    for key, (folder, file) in files.items():  # the mini ones are not for a narrow ComfyUI
        weights.write(models / folder / file)
        workflow["1" if key == "ckpt_name" else "2"]["inputs"][key] = file
    image = run(narrow_server, workflow)
    assert image.std() > 5, "the image is one flat color"
    (people,) = inputs_of(workflow, "VitruvianInstancesFromText")
    people["prompts"] = "\n".join(people["prompts"].splitlines()[:3])
    with pytest.raises(Trouble, match="person 4 of the pose .* has no instance"):
        run(narrow_server, workflow)
