"""What a prompt carries beside its words: each is honored, or refused in the node's name."""

import comfy.hooks
import comfy.lora
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_hooks import SetClipHooks
from vitruvian.host import human_prior
from vitruvian.host.prompt_entries import check_unlimited
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import strengths as methods
from vitruvian.lab.neighbors.strengths import METHODS, Inputs, sample
from vitruvian.models.memory import Memory
from vitruvian.nodes.appearance import VitruvianInstancesFromParts
from vitruvian.nodes.human_attention import VitruvianShowHumanAttention
from vitruvian.nodes.human_prior import VitruvianEncodeHumanPrompt
from vitruvian.nodes.human_prior_training import _training_samples
from vitruvian.nodes.refiner import VitruvianApplyStructureRefiner

import nodes as core

register()
TEXT = "a man waving in a park"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def text_hooks(clip, keyframes):
    """A LoRA of the text encoder and the network, whose strength changes at shares of the
    sampling.
    """
    g = torch.Generator().manual_seed(1)
    keys = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    name = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    weight = dict(clip.cond_stage_model.state_dict())[
        f"{keys[name].removesuffix('.weight')}.weight"
    ]
    lora = {
        f"{name}.lora_up.weight": torch.randn(len(weight), 2, generator=g),
        f"{name}.lora_down.weight": torch.randn(2, weight.shape[1], generator=g),
    }
    hooks = comfy.hooks.create_hook_lora(lora=lora, strength_model=1.0, strength_clip=1.0)
    group = comfy.hooks.HookKeyframeGroup()
    for strength, start in keyframes:
        group.add(comfy.hooks.HookKeyframe(strength=strength, start_percent=start))
    hooks.set_keyframes_on_hooks(hook_kf=group)
    return hooks


def hooked_clip(clip, *, schedule, conds=False):
    hooks = text_hooks(clip, [(1.0, 0.0), (-1.0, 0.5)])
    return SetClipHooks().apply_hooks(clip, schedule, conds, hooks)[0]


def same_entries(ours, expected):
    assert len(ours) == len(expected)
    for (text, entry), (expected_text, expected_entry) in zip(ours, expected, strict=True):
        assert torch.equal(text, expected_text)
        assert entry.keys() - {human_prior.HUMAN, human_prior.WORDS} == expected_entry.keys()
        for key in ("clip_start_percent", "clip_end_percent"):
            assert entry.get(key) == expected_entry.get(key)
        assert entry[human_prior.HUMAN].sum() == 2  # man, waving
    return True


@pytest.mark.parametrize("schedule", [False, True])
@pytest.mark.parametrize("conds", [False, True])
def test_hooks_of_the_text_encoder_reach_the_human_prompt(loaded, schedule, conds):
    clip = hooked_clip(loaded[1], schedule=schedule, conds=conds)
    (ours, words) = VitruvianEncodeHumanPrompt.execute(clip, TEXT, "", "").result
    expected = core.CLIPTextEncode().encode(clip, TEXT)[0]
    assert words == "man, waving" and same_entries(ours, expected)
    assert len(ours) == (2 if schedule else 1)
    plain = core.CLIPTextEncode().encode(loaded[1], TEXT)[0]
    assert not torch.allclose(ours[0][0], plain[0][0], atol=1e-2)
    if schedule:
        assert not torch.allclose(ours[0][0], ours[1][0], atol=1e-2)
    if conds:
        assert all(isinstance(entry["hooks"], comfy.hooks.HookGroup) for _, entry in ours)


def test_a_human_prior_follows_a_scheduled_prompt(loaded):
    """Each entry acts in its part of the sampling, with its own marks: two parts in sequence."""
    clip = hooked_clip(loaded[1], schedule=True)
    positive = VitruvianEncodeHumanPrompt.execute(clip, TEXT, "", "").result[0]
    negative = methods.prompts(loaded[1])[1]
    inputs = METHODS["human prior"](loaded[0], positive, negative)
    scheduled = sample(inputs, steps=8)
    sampling = loaded[0].get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 8)
    cut = int((sigmas > sampling.percent_to_sigma(0.5)).sum())

    def only(entry):
        text, values = entry
        limits = {"clip_start_percent", "clip_end_percent"}
        return [[text, {k: v for k, v in values.items() if k not in limits}]]

    early, late = (inputs._replace(positive=only(entry)) for entry in positive)
    first = sample(early, steps=8, last_step=cut, force_full_denoise=False)
    second = late._replace(latent={"samples": first})
    expected = sample(second, steps=8, start_step=cut, disable_noise=True)
    assert float((scheduled - expected).norm() / expected.norm()) < 1e-5


def test_the_words_for_a_memory_refuse_a_schedule(loaded):
    g = torch.Generator().manual_seed(0)
    memory, labels = Memory({}, "none", torch.randn(10, 192, generator=g)), torch.zeros(1, 8, 8)
    parts, labels = methods.parts(), labels.byte() + methods.parts()[0].part
    inputs = parts, labels, hooked_clip(loaded[1], schedule=True), memory, 2
    with pytest.raises(ValueError, match="^Instances from Parts: the hooks of 'clip' change"):
        VitruvianInstancesFromParts.execute(*inputs)
    still = hooked_clip(loaded[1], schedule=False)
    (with_hooks,) = VitruvianInstancesFromParts.execute(parts, labels, still, memory, 2).result[0]
    (without,) = VitruvianInstancesFromParts.execute(parts, labels, loaded[1], memory, 2).result[0]
    texts = with_hooks.conditioning[0][0], without.conditioning[0][0]
    assert not torch.allclose(*texts, atol=1e-2)


def test_each_area_of_a_prompt_has_its_own_marks(loaded):
    """The network sees a crop: what it denoises is that of the same crop sampled alone."""
    model, negative = loaded[0], methods.prompts(loaded[1])[1]
    left, right = (
        VitruvianEncodeHumanPrompt.execute(loaded[1], words, "", "").result[0]
        for words in ("a man waving", "a tall woman sitting, and a dog")
    )
    area = core.ConditioningSetArea().append
    positive = [
        *area(left, 32, 64, 0, 0, 1.0)[0],
        *area(right, 32, 64, 32, 0, 1.0)[0],
    ]
    rows: list = []

    def record(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        kinds = args[3]["cond_or_uncond"]
        rows.extend((x[k], t[k], out[k]) for k, kind in enumerate(kinds) if kind == 0)
        return out

    inputs = METHODS["human prior"](model, positive, negative)
    recorded = inputs.model.clone()
    recorded.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "record", record)
    sample(inputs._replace(model=recorded), steps=1)
    crops = [row for row in rows if row[0].shape[-1] == methods.CELLS // 2]
    assert len(crops) == 2
    matched = set()
    for x, sigma, out in crops:
        for name, words in (("left", left), ("right", right)):
            again: list = []

            def visit(denoise, y, sigmas, extra_args, callback=None, disable=None, x=x, s=sigma):
                denoise(x[None], s[None], **extra_args)
                return y

            def keep(executor, *args, again=again, **kwargs):
                again.append(executor(*args, **kwargs))
                return again[-1]

            alone = METHODS["human prior"](model, words, negative).model.clone()
            alone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "keep", keep)
            comfy.sample.sample_custom(
                alone,
                torch.zeros(1, 4, *x.shape[-2:]),
                1.0,
                comfy.samplers.KSAMPLER(visit),
                torch.tensor([float(sigma), 0.0]),
                words,
                words,
                torch.zeros(1, 4, *x.shape[-2:]),
                disable_pbar=True,
            )
            if float((again[0][0] - out).norm() / out.norm()) < 1e-5:
                matched.add(name)
    assert matched == {"left", "right"}


CROPPED = {
    "area": lambda text: core.ConditioningSetArea().append(text, 32, 32, 0, 0, 1.0)[0],
    "area of percentages": lambda text: core.ConditioningSetAreaPercentage().append(
        text, 0.5, 0.5, 0.0, 0.0, 1.0
    )[0],
    "bounds of a mask": lambda text: core.ConditioningSetMask().append(
        text, torch.nn.functional.pad(torch.ones(1, 32, 32), (0, 32, 0, 32)), "mask bounds", 1.0
    )[0],
}


@pytest.mark.parametrize(
    ("name", "crop"),
    [
        *((name, crop) for name in ("appearance", "hand generator") for crop in [*CROPPED][:2]),
        *(("refiner", crop) for crop in CROPPED),  # bounds are 8 latent cells or more: all here
    ],
)
def test_methods_of_the_entire_image_refuse_a_crop(loaded, name, crop):
    positive, negative = methods.prompts(loaded[1])
    node = {"refiner": "Apply Structure Refiner"}.get(name, f"Apply {name.title()}")
    with pytest.raises(ValueError, match=f"^{node}: .* area"):
        sample(METHODS[name](loaded[0], CROPPED[crop](positive), negative), steps=1)
    unchanged = METHODS[name](loaded[0], CROPPED[crop](positive), negative, 0.0)
    plain = Inputs(loaded[0], CROPPED[crop](positive), negative, unchanged.latent)
    assert torch.equal(sample(unchanged, steps=1), sample(plain, steps=1))


def test_the_refiner_keeps_what_the_prompts_carry(loaded):
    positive, negative = methods.prompts(loaded[1])
    carried = {
        "start_percent": 0.2,
        "mask": torch.ones(1, 8, 8),
        "mask_strength": 0.5,
        "strength": 0.7,
        "gligen": ("position", None, []),
        "reference_latents": [torch.zeros(1, 4, 2, 2)],
    }
    two = [[t, {**e, **carried}] for t, e in (*positive, *positive)]
    conds = VitruvianApplyStructureRefiner.execute(
        two,
        negative,
        1.0,
        0.0,
        1.0,
        refiner=methods.random_refiner(),
        pose_image=methods.random_image(0),
    ).result
    assert len(conds[0]) == 2
    for _, entry in conds[0]:
        assert all(entry[key] is value for key, value in carried.items())


def test_a_structure_pose_keeps_what_the_prompts_carry(loaded):
    positive, negative = methods.prompts(loaded[1])
    carried = {"start_percent": 0.2, "area": (4, 4, 0, 0), "strength": 0.7, "hooks": object()}
    two = [[t, {**e, **carried}] for t, e in (*positive, *positive)]
    inputs = METHODS["structure"](None, two, negative)
    assert len(inputs.positive) == 2
    for _, entry in inputs.positive:
        assert all(entry[key] is value for key, value in carried.items())


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"start_percent": 0.2}, "a range of timesteps"),
        ({"clip_start_percent": 0.0, "clip_end_percent": 0.5}, "a range of timesteps"),
        ({"area": (4, 4, 0, 0)}, "an area"),
        ({"mask": torch.ones(1, 8, 8), "end_percent": 0.5}, "a mask and a range of timesteps"),
    ],
)
def test_training_refuses_texts_that_count_in_a_part(limits, reason):
    text = torch.zeros(1, 77, 192)
    check_unlimited({"start_percent": 0.0, "end_percent": 1.0, "strength": 0.5}, 1)
    latents = [{"samples": torch.zeros(2, 4, 8, 8)}]
    with pytest.raises(ValueError, match=f"text 2 of 'positive' has {reason}, but in training"):
        _training_samples(latents, [[[text, {}], [text, limits]]], None, "")


REFUSING_JOINT = ["human prior", "appearance", "hand generator"]


@pytest.mark.parametrize("name", REFUSING_JOINT)
def test_a_joint_network_is_another_network(loaded, name):
    """It is built from a UNet, but its outer layers are there three times."""
    joint, conds = methods.structure_model(), methods.prompts(loaded[1])
    on_base = METHODS[name].__globals__

    def of_the_base(function):
        return lambda model, *args: function(loaded[0], *args)

    with pytest.MonkeyPatch.context() as patch:
        for maker in ("random_prior", "random_appearance", "random_hand_generator"):
            patch.setitem(on_base, maker, of_the_base(on_base[maker]))
        with pytest.raises(ValueError, match=f"^Apply {name.title()} knows .*StructureUNet"):
            METHODS[name](joint, *conds)


def test_attention_of_a_joint_network_is_refused(loaded):
    latent = {"samples": torch.zeros(1, 12, 8, 8)}
    positive = methods.prompts(loaded[1])[0]
    with pytest.raises(ValueError, match="^Show Human Attention knows .*StructureUNet"):
        VitruvianShowHumanAttention.execute(
            methods.structure_model(), positive, latent, "", "0.5", 0
        )
