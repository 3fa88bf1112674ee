"""What every patch needs: families, windows, options, chunks; and every method on a network that it
does not know.
"""

from types import SimpleNamespace

import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import pytest
import torch
from comfy_api.latest import io
from vitruvian.host import human_prior, sampling
from vitruvian.host.registration import register
from vitruvian.models import human_tokens
from vitruvian.nodes import (
    MODULES,
    appearance,
    hand_generator,
    human_attention,
    human_prior_training,
    mask_expansion,
    refiner,
)
from vitruvian.nodes import human_prior as human_prior_nodes

register()
TRANSFORMER = {
    "input_size": None, "patch_size": 2, "in_channels": 16, "depth": 2, "adm_in_channels": 32,
    "pos_embed_max_size": 16, "num_patches": 256, "pos_embed_scaling_factor": None,
    "context_embedder_config": {
        "target": "torch.nn.Linear", "params": {"in_features": 48, "out_features": 128},
    }, "dtype": torch.float32,
}  # fmt: skip


def pose_of(name, points):
    """A pose of one person with these keypoints alone."""
    person = {name: [32.0, 32.0, 1.0] * points}
    return [{"people": [person], "canvas_width": 64, "canvas_height": 64}]


POSE = pose_of("pose_keypoints_2d", 18)
HAND_POSE = pose_of("hand_left_keypoints_2d", 21)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def transformer():
    """MODEL of a tiny transformer, SD3's, with random weights."""
    config = comfy.supported_models.SD3(dict(TRANSFORMER))
    config.custom_operations = comfy.ops.disable_weight_init
    network = config.get_model({})
    for parameter in network.diffusion_model.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.1
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(network, load_device=cpu, offload_device=cpu)


def prompt():
    """A conditioning with a marked word."""
    words = tuple(human_tokens.join_pieces(["man</w>"]))
    marks = torch.ones(1, dtype=torch.bool)
    entry = {human_prior.HUMAN: marks, human_prior.WORDS: words}
    return [[torch.randn(1, 1, 48), entry]]


def apply_human_prior(model):
    prior = human_prior.Prior({}, 0.5, "before", "prior")
    return human_prior_nodes.VitruvianApplyHumanPrior.execute(
        model, prior, 1.0, -1.0, human_prior_nodes.AS_TRAINED, 0.0, 1.0, 1.0, 1.0, 1.0
    )


def train_human_prior(model):
    inputs = {
        "model": model,
        "latents": {"samples": torch.zeros(1, 16, 8, 8)},
        "positive": prompt(),
        "pose_encoder_name": human_prior_training.DRAWN,
        "steps": 1,
        "samples_per_step": 1,
        "learning_rate": 1e-3,
        "hidden_size": 4,
        "train_gamma": 0.0,
        "train_mask_tokens": "keys",
        "alignment_weight": 0.0,
        "seed": 0,
        "filename_prefix": "refused",
    }
    return human_prior_training.VitruvianTrainHumanPrior.execute(
        **{name: [value] for name, value in inputs.items()}
    )


def save_human_prior(model):
    prior = human_prior.Prior({}, 0.5, "before", "prior")
    return human_prior_training.VitruvianSaveHumanPrior.execute(prior, model, "refused")


def show_human_attention(model):
    return human_attention.VitruvianShowHumanAttention.execute(
        model, prompt(), {"samples": torch.zeros(1, 16, 8, 8)}, "", "0.5", 0
    )


def apply_appearance(model):
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    return appearance.VitruvianApplyAppearance.execute(model, None, (), labels, 1.0, 1.0, 0.0, 1.0)


def apply_hand_generator(model):
    return hand_generator.VitruvianApplyHandGenerator.execute(model, None, HAND_POSE, 1.0)


REFUSING = {
    "Apply Human Prior": apply_human_prior,
    "Train Human Prior": train_human_prior,
    "Save Human Prior": save_human_prior,
    "Show Human Attention": show_human_attention,
    "Apply Appearance": apply_appearance,
    "Apply Hand Generator": apply_hand_generator,
}
BEHIND_ANOTHER = {"Predict Hand Masks"}  # takes the model of Apply Hand Generator, which refuses
ANY_MODEL = {"Apply Mask Expansion"}
TRANSFORMERS_TOO = {"Compose Instances", "Compose People"}


@pytest.mark.parametrize("name", REFUSING)
def test_another_network_family_is_refused_by_every_method_in_its_own_name(transformer, name):
    with pytest.raises(ValueError) as error:
        REFUSING[name](transformer)
    network = type(transformer.model.diffusion_model).__name__
    assert str(error.value) == (
        f"{name} knows SD1.5, SD2.x and SDXL, but this model is SD3 ({network}). "
        "Connect a model of one of these to 'model'."
    )


def test_every_node_with_a_model_is_tried():
    schemas = [node.define_schema() for module in MODULES for node in module.NODES]
    with_model = {
        schema.display_name
        for schema in schemas
        if any(isinstance(field, io.Model.Input) for field in schema.inputs)
    }
    assert with_model == REFUSING.keys() | BEHIND_ANOTHER | ANY_MODEL | TRANSFORMERS_TOO


def test_hand_masks_and_mask_expansion_on_another_family(transformer):
    latent = {"samples": torch.zeros(1, 16, 8, 8)}
    with pytest.raises(ValueError, match="^Predict Hand Masks: .* Apply Hand Generator"):
        hand_generator.VitruvianPredictHandMasks.execute(transformer, None, prompt(), latent)
    (expanding,) = mask_expansion.VitruvianApplyMaskExpansion.execute(
        transformer, 16, 0.0, 1.0
    ).result
    assert expanding is not transformer


def test_control_nets_of_another_family(transformer):
    other = SimpleNamespace(control_model=transformer.model.diffusion_model)
    with pytest.raises(ValueError, match="^Apply Structure Refiner: the input 'refiner' is"):
        refiner.VitruvianApplyStructureRefiner.execute(
            prompt(), prompt(), 1.0, 0.0, 1.0, refiner=other, pose_image=torch.zeros(1, 64, 64, 3)
        )


def test_a_family_is_known_by_its_class(family):
    model = family[0]
    assert sampling.known_family(model, "Test") is sampling.UNET
    assert sampling.unet_of(model, "Test") is model.model.diffusion_model
    linear = sampling.Family(("Linear",), torch.nn.Linear)
    assert sampling.known_family(model, "Test", [linear, sampling.UNET]) is sampling.UNET
    with pytest.raises(ValueError, match="^Test knows A, B and Linear, but .*UNetModel"):
        other = sampling.Family(("A", "B"), torch.nn.Conv2d)
        sampling.known_family(model, "Test", [other, linear])


def test_a_window_contains_its_ends():
    falling = SimpleNamespace(percent_to_sigma=lambda percent: 10 * (1 - percent))
    window = sampling.Window.of(falling, 0.2, 0.5)
    assert window == sampling.Window(8.0, 5.0)
    assert all(window.contains(torch.tensor([sigma])) for sigma in (8.0, 6.5, 5.0))
    assert not any(window.contains(torch.tensor([sigma])) for sigma in (8.1, 4.9, 0.0))
    entire = sampling.Window.of(falling, 0.0, 1.0)
    assert entire.contains(torch.empty(2, device="meta"))  # without a look at the noise level


def test_the_window_of_a_hosts_sampling(transformer):
    model_sampling = transformer.get_model_object("model_sampling")
    guider = SimpleNamespace(inner_model=transformer.model, conds={"positive": [{"uuid": 1}]})
    noise = torch.zeros(2, 16, 6, 8)
    beginning = sampling.Sampling(guider, torch.tensor([1.0, 0.0]), noise)
    assert beginning.window(0.25, 0.5) == sampling.Window.of(model_sampling, 0.25, 0.5)
    assert beginning.size == (6, 8) and beginning.entries == [{"uuid": 1}]


def test_options_are_made_anew():
    patch, other = (lambda n, extra: n), (lambda n, extra: 2 * n)
    options = {"patches": {"attn1_patch": [other]}, "sigmas": 1}
    extra_args = {"model_options": {"transformer_options": options, "other": 2}, "seed": 3}
    snapshot = {"patches": {"attn1_patch": [other]}, "sigmas": 1}
    assert sampling.options_of(extra_args) is options
    added = sampling.with_options(options, slot="plan")
    behind = sampling.with_patch(options, "attn1_patch", patch)
    before = sampling.with_patch(options, "attn1_patch", patch, first=True)
    only = sampling.with_patch({}, "attn2_patch", patch)
    replaced = sampling.replace_options(extra_args, added)
    assert added == {**snapshot, "slot": "plan"}
    assert behind["patches"] == {"attn1_patch": [other, patch]}
    assert before["patches"] == {"attn1_patch": [patch, other]}
    assert only == {"patches": {"attn2_patch": [patch]}}
    assert replaced == {
        "model_options": {"transformer_options": added, "other": 2},
        "seed": 3,
    }
    assert options == snapshot
    assert extra_args["model_options"] == {"transformer_options": snapshot, "other": 2}


def passed_extra_args(guider, sigmas, extra_args, *_):
    """In the executor's place: what the wrapper passes on."""
    return extra_args


def test_a_plan_reaches_the_blocks_inside_its_window_only():
    model_options = {"transformer_options": {"mine": 1}}
    plan = SimpleNamespace(window=sampling.Window(8.0, 5.0))
    make_plan = sampling.plan_wrapper("slot", lambda beginning: plan)
    passed = {"model_options": model_options}
    extra_args = make_plan(passed_extra_args, None, None, passed, None, torch.zeros(1, 4, 8, 8))
    options = sampling.options_of(extra_args)
    assert options == {"mine": 1, "slot": plan}
    assert model_options == {"transformer_options": {"mine": 1}}

    class Executor:
        class_obj = SimpleNamespace(diffusion_model="network")

        def __call__(self, x, t, c_concat, c_crossattn, control, transformer_options, **extra):
            return transformer_options

    calls = []

    def begin(plan, call):
        calls.append(call)
        return "value" if call.options["mine"] else None

    wrapper = sampling.call_wrapper("slot", begin)

    def call(sigma, options):
        x, t = torch.zeros(2, 4, 8, 8), torch.full((2,), sigma)
        return wrapper(Executor(), x, t, transformer_options=options)

    assert call(6.0, options) == {"mine": 1, "slot": "value"}
    assert call(6.0, {**options, "mine": 0}) == {"mine": 0}
    assert call(9.0, options) == call(1.0, options) == {"mine": 1}
    assert call(6.0, {"mine": 1}) == {"mine": 1}
    assert [each.network for each in calls] == ["network"] * 2
    assert options == {"mine": 1, "slot": plan}


def test_no_plan_leaves_the_options_alone():
    extra_args = {"model_options": {"transformer_options": {}}}
    wrapper = sampling.plan_wrapper("slot", lambda beginning: None)
    passed = wrapper(passed_extra_args, None, None, extra_args, None, torch.zeros(1, 4, 8, 8))
    assert passed is extra_args


@pytest.mark.parametrize("kinds", [[1, 0], [0, 1], [0], [1, 0, 0]])
def test_chunks_follow_the_batchs_order(kinds):
    uuids = [f"entry {k}" for k in range(len(kinds))]
    chunks = sampling.chunks(2 * len(kinds), {"cond_or_uncond": kinds, "uuids": uuids})
    assert [chunk.uuid for chunk in chunks] == uuids
    assert [chunk.positive for chunk in chunks] == [kind == 0 for kind in kinds]
    rows = torch.arange(2 * len(kinds))
    assert torch.equal(torch.cat([rows[chunk.rows] for chunk in chunks]), rows)
    assert all(len(rows[chunk.rows]) == 2 for chunk in chunks)


def test_the_stride_and_the_grid(transformer):
    assert sampling.latent_stride(transformer.get_model_object("latent_format")) == 8
    assert sampling.latent_stride(SimpleNamespace()) == 8
    assert sampling.latent_stride(SimpleNamespace(spacial_downscale_ratio=16)) == 16
    assert sampling.token_grid({"activations_shape": (2, 320, 13, 19)}) == (13, 19)


def test_a_function_runs_in_the_samplers_place(family, random_text):
    model, calls = family[0], []
    text, latent = random_text(model, 1), torch.randn(1, 4, 8, 8)

    def function(denoise, x, sigmas, extra_args, callback=None, disable=None):
        calls.append((x.clone(), sigmas.tolist(), denoise.inner_model.cfg))
        return x

    result = sampling.run_as_sampler(model, function, latent, (text, text), 2.0)
    ((x, sigmas, cfg),) = calls
    assert sigmas == [2.0, 0.0] and cfg == 1.0
    torch.testing.assert_close(result, latent, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x, model.model.process_latent_in(latent), atol=1e-5, rtol=1e-5)
