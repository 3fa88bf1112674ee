"""Compose People: bit by bit what the nodes that it stands for make, and errors in its words."""

import gc
import os
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from vitruvian.host import control_net as loading
from vitruvian.host.registration import register
from vitruvian.nodes import compose_people as ours
from vitruvian.nodes.compose import MEAN, VitruvianComposeInstances
from vitruvian.nodes.instances import VitruvianInstancesFromText
from vitruvian.tests.host.test_compose import poses
from vitruvian.tests.host.transformer_networks import NETWORKS, is_known, make_model, text

import nodes as core

register()
MINI, TRANSFORMER = "vitruvian_mini", "vitruvian_mini_transformer"
LINES = "a man with a red top\na woman with a blue top"
WORDS = {"setting": "in a park, full body", "negative_prompt": "blurry"}
OTHERS = {
    "strength": 1.5,
    "mode": "exact",
    "output_width": 0,
    "output_height": 0,
}
FAMILIES = [name for name in ("Flux.1 dev", "Qwen-Image", "Flux.2 Klein") if is_known(name)]


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def checkpoints(mini_weights):
    load = core.CheckpointLoaderSimple().load_checkpoint
    with torch.inference_mode():
        return {name: load(f"{name}.safetensors")[:3] for name in (MINI, TRANSFORMER)}


def control_file(name):
    return f"{name}_openpose.safetensors"


def people_node(model, clip, pose, prompts=LINES, control="none", **changes):
    values = {**WORDS, **OTHERS, "control_net_name": control, **changes}
    return ours.VitruvianComposePeople.execute(model, clip, pose, prompts, **values).result


def long_graph(model, clip, pose, control="none", vae=None, mode="exact"):
    """What an artist wires otherwise: Instances from Text, two prompts, Compose Instances."""
    instances = VitruvianInstancesFromText.execute(clip, LINES, WORDS["setting"], "").result[0]
    encode = core.CLIPTextEncode().encode
    positive, negative = (encode(clip, words)[0] for words in WORDS.values())
    if control == "none":
        control_net = None
    else:
        control_net = core.ControlNetLoader().load_controlnet(control)[0]
    return VitruvianComposeInstances.execute(
        model,
        positive,
        negative,
        instances,
        pose,
        control_net,
        vae=vae,
        mode=mode,
        strength=1.5,
        harmony=0.5,
        dilation=0.06,
        start_percent=0.0,
        end_percent=1.0,
        background_prompt=MEAN,
        shared_negative=False,
    ).result


def sample(model, positive, negative, latent):
    return core.common_ksampler(model, 7, 2, 3.0, "euler", "normal", positive, negative, latent)[0][
        "samples"
    ]


def check_equal(outputs, reference, latent):
    """The short graph's image is the long one's, and so are the masks."""
    *composed, own_latent, masks = outputs
    assert own_latent["samples"].shape == latent["samples"].shape
    assert torch.equal(masks, reference[3])
    assert torch.equal(sample(*composed, own_latent), sample(*reference[:3], latent))


@pytest.mark.parametrize("mode", ["exact", "couple"])
@pytest.mark.parametrize("name", [MINI, TRANSFORMER])
def test_equals_the_long_graph_bit_by_bit(checkpoints, name, mode):
    model, clip, _ = checkpoints[name]
    control, vae, pose = control_file(name), checkpoints[MINI][2], poses(0.3, 0.7)
    outputs = people_node(model, clip, pose, control=control, vae=vae, mode=mode)
    reference = long_graph(model, clip, pose, control, vae, mode)
    latent = core.EmptyLatentImage().generate(128, 128)[0]
    cells = outputs[3]["samples"].shape[1:]
    latent["samples"] = latent["samples"].new_zeros(1, *cells)
    check_equal(outputs, reference, latent)
    assert outputs[3]["samples"].any().logical_not()


def test_the_latent_is_the_one_of_the_host_s_own_node(checkpoints):
    model, clip, _ = checkpoints[MINI]
    latent = people_node(model, clip, poses(0.3, 0.7))[3]["samples"]
    assert torch.equal(latent, core.EmptyLatentImage().generate(128, 128)[0]["samples"])


class RandomClip:
    """The text encoder of a tiny network: another random text for each prompt."""

    def __init__(self, name):
        self.name = name

    def tokenize(self, words):
        return words

    def encode_from_tokens_scheduled(self, words):
        return text(self.name, len(words), 20 + len(words) % 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_equals_the_long_graph_on_transformers(name):
    model, clip, pose = make_model(name), RandomClip(name), poses(0.3, 0.7)
    outputs = people_node(model, clip, pose)
    reference = long_graph(model, clip, pose)
    latent_format = model.get_model_object("latent_format")
    stride = 16 if NETWORKS[name].supported == "Flux2" else 8
    frames = [1] if latent_format.latent_dimensions == 3 else []
    shape = (1, latent_format.latent_channels, *frames, 128 // stride, 128 // stride)
    check_equal(outputs, reference, {"samples": torch.zeros(shape)})


def test_each_frame_of_the_pose_has_an_image(checkpoints):
    model, clip, _ = checkpoints[MINI]
    pose = poses(0.3, 0.7) + poses(0.2, 0.6)
    outputs = people_node(model, clip, pose, control=control_file(MINI))
    reference = long_graph(model, clip, pose, control_file(MINI))
    check_equal(outputs, reference, core.EmptyLatentImage().generate(128, 128, 2)[0])


@pytest.mark.parametrize(
    ("size", "cells"),
    [((0, 0), (16, 16)), ((0, 97), (13, 13)), ((200, 0), (25, 25)), ((64, 100), (13, 8))],
)
def test_sides_are_those_of_the_pose_or_as_said_rounded_up_to_cells(checkpoints, size, cells):
    model, clip, _ = checkpoints[MINI]
    width, height = size
    outputs = people_node(model, clip, poses(0.3, 0.7), output_width=width, output_height=height)
    assert tuple(outputs[3]["samples"].shape[-2:]) == cells
    assert sample(*outputs[:4]).isfinite().all()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "Flux.2 Klein"])
def test_sides_that_no_token_divides_are_sampled(name):
    outputs = people_node(make_model(name), RandomClip(name), poses(0.3, 0.7), output_width=100)
    assert tuple(outputs[3]["samples"].shape[-2:]) == (13, 13)
    assert sample(*outputs[:4]).isfinite().all()


# ---- the ControlNet by name


def test_the_first_file_for_poses_is_the_default(monkeypatch):
    def default(*names):
        monkeypatch.setattr(folder_paths, "get_filename_list", lambda folder: [*names])
        return ours._control_net_input().default

    assert default("a_depth", "b_Union", "c_OpenPose", "d_pose") == "c_OpenPose"
    assert default("a_depth", "flux/Union-Pro") == "flux/Union-Pro"
    assert default("a_depth") == default() == "none"


def test_another_prompt_reads_no_file_again_until_it_changes(monkeypatch, tmp_path):
    read, model = [], SimpleNamespace(model=torch.nn.Identity())
    path = tmp_path / "pose.safetensors"
    path.touch()
    monkeypatch.setattr(folder_paths, "get_full_path", lambda folder, name: str(path))
    loader = lambda self, name: read.append(name) or (name,)  # noqa: E731
    monkeypatch.setattr(loading.ControlNetLoader, "load_controlnet", loader)
    for seconds in (1, 1, 2):
        os.utime(path, (seconds, seconds))
        loading.load_control_net(model, path.name, "control_net_name")
    assert len(read) == 2


def test_the_file_goes_with_the_checkpoint():
    model = SimpleNamespace(model=torch.nn.Identity())
    loading._last_loaded[model.model] = (("file", 1), "a ControlNet")
    count = len(loading._last_loaded)
    del model
    gc.collect()
    assert len(loading._last_loaded) == count - 1


def test_strength_0_loads_no_file_and_is_no_control(checkpoints):
    model, clip, _ = checkpoints[MINI]
    pose = poses(0.3, 0.7)
    weak = people_node(model, clip, pose, control="there is no such file", strength=0.0)
    without = people_node(model, clip, pose)
    assert torch.equal(sample(*weak[:4]), sample(*without[:4]))


# ---- errors, in this node's words


def refusal(*arguments, **values):
    with pytest.raises(ValueError) as refused:
        people_node(*arguments, **values)
    text = str(refused.value)
    assert text.startswith("Compose People: ")
    assert "Compose Instances" not in text
    assert "'control_net'" not in text
    return text


@pytest.mark.parametrize(("lines", "count"), [("a man", 1), (f"{LINES}\na dog", 3)])
def test_lines_and_people_must_agree(checkpoints, lines, count):
    model, clip, _ = checkpoints[MINI]
    text = refusal(model, clip, poses(0.3, 0.7), lines)
    assert f"'prompts' is {count}, but in 'pose' it is 2" in text


def test_errors_of_what_it_stands_for_are_its_own(checkpoints):
    model, clip, _ = checkpoints[MINI]
    pose = poses(0.3, 0.7)
    assert "'prompts' is empty" in refusal(model, clip, pose, " ")
    assert "'pose' has no people" in refusal(model, clip, [{**pose[0], "people": []}])
    assert "'setting' names a LoRA" in refusal(model, clip, pose, setting="<lora:a:1>")
    assert "no file x.safetensors" in refusal(model, clip, pose, control="x.safetensors")
    other = refusal(model, clip, pose, control=control_file(TRANSFORMER))
    assert "the input 'control_net_name' is for" in other
    composed = people_node(model, clip, pose)[0]
    assert "into one Compose People" in refusal(composed, clip, pose)


def test_a_control_that_reads_latents_asks_for_the_vae(checkpoints):
    model, clip, _ = checkpoints[TRANSFORMER]
    text = refusal(model, clip, poses(0.3, 0.7), control=control_file(TRANSFORMER))
    assert "'control_net_name' is a control that reads latents" in text
    assert "'vae'" in text


def test_a_file_that_is_no_control_net_is_refused(checkpoints, tmp_path, monkeypatch):
    model, clip, _ = checkpoints[MINI]
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    path_of = lambda folder, name: str(path)  # noqa: E731
    monkeypatch.setattr(folder_paths, "get_full_path", path_of)
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", path_of)
    text = refusal(model, clip, poses(0.3, 0.7), control="other.safetensors")
    assert "other.safetensors holds no ControlNet" in text


@pytest.mark.parametrize("part", ["model", "conditioning"])
def test_half_connected_says_which_output_is_missing(checkpoints, part):
    model, clip, _ = checkpoints[MINI]
    composed, positive, negative, latent, _ = people_node(model, clip, poses(0.3, 0.7))
    plain = core.CLIPTextEncode().encode(clip, "a park")[0]
    wired = (model, positive, negative) if part == "model" else (composed, plain, plain)
    with pytest.raises(ValueError, match=rf"^Compose People: .* not its {part}") as refused:
        sample(*wired, latent)
    assert "Compose Instances" not in str(refused.value)


def test_errors_while_sampling_name_this_node(checkpoints):
    model, clip, _ = checkpoints[MINI]
    *composed, _, _ = people_node(model, clip, poses(0.3, 0.7) + poses(0.2, 0.6))
    with pytest.raises(ValueError, match=r"^Compose People: .* 2 frames"):
        sample(*composed, core.EmptyLatentImage().generate(128, 128, 3)[0])
