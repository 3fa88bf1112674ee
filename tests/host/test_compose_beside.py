"""Composed people beside conditionings that are not composed, in parts of a sampling, in batches,
in tiles, and with prompts that carry more than words.
"""

import copy
import itertools

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import methods
from vitruvian.models import compose
from vitruvian.nodes import compose as ours
from vitruvian.nodes.instances import VitruvianAddInstance

import nodes as core

register()
MODES = pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
SIZE, CELLS = methods.PIXELS, methods.PIXELS // 8


@pytest.fixture(scope="module")
def loaded(mini_weights):
    return methods.load()


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def text(loaded, words):
    return core.CLIPTextEncode().encode(loaded.clip, words)[0]


def pair(loaded, mode="exact", **changes):
    """Two equal people, and the ordinary ControlNet that they equal."""
    return methods.equal_people(
        loaded, None, loaded.positive, loaded.negative, 1, mode=mode, **changes
    )


def noise_of(latent, seed=3):
    return comfy.sample.prepare_noise(latent["samples"], seed)


def guided(inputs, positive=None, negative=None, cfg=4.0):
    guider = comfy.samplers.CFGGuider(inputs.model)
    guider.set_conds(positive or inputs.positive, negative or inputs.negative)
    guider.set_cfg(cfg)
    return guider


def sampled(guider, latent, sigmas=None, sampler="euler", noise=None):
    if sigmas is None:
        sigmas = steps_of(guider, 3)
    noise = noise_of(latent) if noise is None else noise
    chosen = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
    return guider.sample(noise, latent["samples"], chosen, sigmas, disable_pbar=True, seed=3)


def steps_of(guider, count):
    sampling = guider.model_patcher.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, "normal", count)


def assert_near(first, second, limit=2e-5):
    assert float((first - second).norm() / second.norm()) < limit


# ---- conditionings that are not composed


@MODES
def test_a_plain_negative_runs_as_the_plain_model_runs_it(loaded, mode):
    people, plain = pair(loaded, mode)[:2]
    expected = sampled(guided(plain, negative=loaded.negative), plain.latent)
    assert_near(sampled(guided(people, negative=loaded.negative), people.latent), expected)


@MODES
@pytest.mark.parametrize("memory", ["enough", "low"])
def test_combined_conditionings_run_together(loaded, mode, memory, monkeypatch):
    people, plain = pair(loaded, mode)[:2]
    if memory == "low":  # every chunk in a call of its own
        monkeypatch.setattr(loaded.model.model, "memory_required", lambda *_, **__: 1e18)
    others = [text(loaded, "a tree"), text(loaded, "a house, red")]
    for order in itertools.permutations(range(3)):

        def combined(positive, order=order):
            return list(itertools.chain(*([positive, *others][k] for k in order)))

        ours, theirs = (
            sampled(guided(i, combined(i.positive), loaded.negative), i.latent)
            for i in (people, plain)
        )
        assert_near(ours, theirs)


@MODES
def test_a_conditioning_with_an_area_stands_beside_the_people(loaded, mode):
    people, plain = pair(loaded, mode)[:2]
    area = core.ConditioningSetArea().append(text(loaded, "a tree"), 32, 64, 16, 0, 1.0)[0]
    ours, theirs = (
        sampled(guided(inputs, [*inputs.positive, *area]), inputs.latent)
        for inputs in (people, plain)
    )
    assert_near(ours, theirs)


@MODES
def test_a_mask_and_a_timestep_range_on_the_composed_prompts_count(loaded, mode):
    people, plain = pair(loaded, mode)[:2]
    mask = torch.zeros(1, SIZE, SIZE)
    mask[..., : SIZE // 2] = 1
    tree = text(loaded, "a tree")

    def positive(inputs):
        masked = core.ConditioningSetMask().append(inputs.positive, mask, "default", 0.7)[0]
        timed = core.ConditioningSetTimestepRange().set_range(masked, 0.0, 0.6)[0]
        return [*timed, *tree]

    ours, theirs = (
        sampled(guided(inputs, positive(inputs)), inputs.latent) for inputs in (people, plain)
    )
    assert_near(ours, theirs)
    assert float((ours - sampled(guided(people), people.latent)).norm()) > 0.1


def test_a_model_without_any_composed_conditioning_is_refused(loaded):
    people = pair(loaded).ours
    with pytest.raises(ValueError, match="Connect the outputs 'positive' and 'negative'"):
        sampled(guided(people, loaded.positive, loaded.negative), people.latent)


def test_composed_conditionings_without_their_model_are_refused(loaded):
    people = different_people(loaded)
    for model in (loaded.model, different_people(loaded).model):
        other = people._replace(model=model)
        if model is not loaded.model:  # some conditioning is that model's own
            other = other._replace(negative=different_people(loaded).negative)
        with pytest.raises(ValueError, match="Compose Instances: the sampler got the composed"):
            sampled(guided(other), people.latent)


@MODES
def test_the_positive_prompt_owns_the_background_if_it_is_asked_to(loaded, mode):
    other = loaded._replace(positive=text(loaded, "a city at night"))
    for scene, counts in ((ours.SCENE, True), (ours.MEAN, False)):
        settings = {"mode": mode, "background_prompt": scene, "start_percent": 0, "end_percent": 1}
        first, second = (
            sampled(guided(inputs), inputs.latent)
            for inputs in (different_people(each, **settings) for each in (loaded, other))
        )
        assert (float((first - second).norm() / first.norm()) > 1e-3) == counts


# ---- parts of a sampling


def test_two_parts_give_the_image_of_the_whole(loaded):
    for mode, shared in (("exact", True), ("layers", False), ("couple", True)):
        people = different_people(loaded, mode=mode, shared_negative=shared)
        guider = guided(people)
        sigmas = steps_of(guider, 8)
        uncut = sampled(guider, people.latent, sigmas)
        first = sampled(guided(people), people.latent, sigmas[:5])
        second = sampled(
            guided(people), {"samples": first}, sigmas[4:], noise=torch.zeros_like(first)
        )
        assert_near(second, uncut, 1e-5)


def test_an_advanced_sampler_in_two_parts_gives_the_image_of_the_whole(loaded):
    people = different_people(loaded, mode="exact")
    model, positive, negative, latent = people

    def run(latent, **options):
        return core.common_ksampler(
            model, 3, 8, 4.0, "euler", "normal", positive, negative, latent, **options
        )[0]

    first = run(latent, start_step=0, last_step=4, force_full_denoise=False)
    second = run(first, disable_noise=True, start_step=4, last_step=8, force_full_denoise=True)
    assert_near(second["samples"], run(latent)["samples"], 1e-5)


@MODES
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_sde"])
def test_the_denoised_image_is_a_function_of_the_noise_level(loaded, mode, sampler):
    """A multistep or a random sampler gives another image in two parts on any model. What it asks
    the network must be answered as in the whole sampling, from whichever step it begins.
    """
    people = different_people(loaded, mode=mode)
    guider = guided(people)
    sigmas, asked = steps_of(guider, 6), []

    def recorded(executor, x, timestep, *args, **kwargs):
        denoised = executor(x, timestep, *args, **kwargs)
        asked.append((x.clone(), timestep.clone(), denoised.clone()))
        return denoised

    spied = people.model.clone()
    spied.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "spy", recorded)
    sampled(guided(people._replace(model=spied)), people.latent, sigmas, sampler)
    assert len(asked) >= 6

    answers = []

    def ask_again(model, x, sigmas, extra_args=None, callback=None, disable=None):
        answers.extend(model(old, sigma, **extra_args) for old, sigma, _ in asked[3:])
        return x

    again = comfy.samplers.KSAMPLER(ask_again)
    sampled(guided(people), people.latent, sigmas[3:], again)
    for answer, (_, _, denoised) in zip(answers, asked[3:], strict=True):
        assert_near(answer, denoised, 1e-5)


def different_people(loaded, pose=None, latent=None, masks=(None, None), **changes):
    """Two people with prompts of their own beside each other."""
    words = "a man with a red top", "a woman with a blue top"
    instances = tuple(
        compose.Instance(text(loaded, w), number, mask)
        for number, (w, mask) in enumerate(zip(words, masks, strict=True), 1)
    )
    settings = {
        "mode": "exact", "strength": 1.0, "harmony": 0.5, "dilation": 0.06, "start_percent": 0.1,
        "end_percent": 0.9, "background_prompt": ours.MEAN, "shared_negative": False, **changes,
    }  # fmt: skip
    result = ours.VitruvianComposeInstances.execute(
        loaded.model, loaded.positive, loaded.negative, instances,
        pose or [frame(0.0)], loaded.control_net, **settings,
    ).result[:3]  # fmt: skip
    return methods.Inputs(*result, latent or methods.empty_latent())


def frame(shift, people=2):
    """Two people beside each other, moved down by a share of the image."""
    person = methods.standing_person()[0]["people"][0]["pose_keypoints_2d"]

    def moved(right):
        return [value + SIZE * (right, shift, 0)[number % 3] for number, value in enumerate(person)]

    places = (-0.07, 0.07)[:people]  # so near that they overlap, and harmony counts
    return {
        "people": [{"pose_keypoints_2d": moved(right)} for right in places],
        "canvas_width": SIZE,
        "canvas_height": SIZE,
    }


# ---- batches


@MODES
@pytest.mark.parametrize("scene", [ours.MEAN, ours.SCENE])
def test_frame_k_of_a_pose_goes_with_image_k(loaded, mode, scene):
    frames = [frame(-0.1), frame(0.0), frame(0.1)]
    latent = methods.empty_latent(3)
    noise = noise_of(latent)
    settings = {"mode": mode, "background_prompt": scene, "shared_negative": True}
    batch = different_people(loaded, frames, latent, **settings)
    together = sampled(guided(batch), latent, noise=noise)
    for number, single in enumerate(frames):
        alone = different_people(loaded, [single], **settings)
        image = slice(number, number + 1)
        expected = sampled(guided(alone), methods.empty_latent(), noise=noise[image])
        assert_near(together[image], expected, 1e-4)
    assert float((together[0] - together[2]).norm()) > 0.1


def test_mask_k_of_an_instance_goes_with_image_k(loaded):
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, :, : SIZE // 2], masks[1, : SIZE // 2] = 1, 1
    latent = methods.empty_latent(2)
    noise = noise_of(latent)
    node = VitruvianAddInstance
    for number in (0, 1):
        batch, single = (
            node.execute(loaded.positive, 1, 0, 1.0, mask=m).result[0][0].mask
            for m in (masks, masks[number : number + 1])
        )
        together = different_people(loaded, None, latent, (batch, None))
        alone = different_people(loaded, masks=(single, None))
        image = slice(number, number + 1)
        expected = sampled(guided(alone), methods.empty_latent(), noise=noise[image])
        assert_near(sampled(guided(together), latent, noise=noise)[image], expected, 1e-4)


@MODES
@pytest.mark.parametrize("scene", [ours.MEAN, ours.SCENE])
def test_row_k_of_a_persons_prompt_goes_with_image_k(loaded, monkeypatch, mode, scene):
    """Packs with a schedule of prompts encode one row for each image."""
    latent = methods.empty_latent(2)
    noise = noise_of(latent)
    rows = [text(loaded, "a man with a red top"), text(loaded, "a man with a green hat")]
    woman = text(loaded, "a woman with a blue top")

    def composed(prompt, latent):
        prompts = {"a man with a red top": prompt, "a woman with a blue top": woman}
        monkeypatch.setitem(globals(), "text", lambda _, words: prompts[words])
        return different_people(
            loaded, latent=latent, mode=mode, background_prompt=scene, shared_negative=True
        )

    batch = [[torch.cat([row[0][0] for row in rows]), {}]]
    together = sampled(guided(composed(batch, latent)), latent, noise=noise)
    for number, row in enumerate(rows):
        alone = composed([[row[0][0], {}]], None)
        image = slice(number, number + 1)
        expected = sampled(guided(alone), methods.empty_latent(), noise=noise[image])
        assert_near(together[image], expected, 1e-4)
    three = methods.empty_latent(3)
    with pytest.raises(ValueError, match="instance 1 is for 2 images, .* latent has 3"):
        sampled(guided(composed(batch, three)), three)


def test_an_empty_frame_among_others_is_an_empty_frame(loaded):
    frames = [frame(0.0), frame(0.0, people=0)]
    latent = methods.empty_latent(2)
    batch = different_people(loaded, frames, latent)
    noise = noise_of(latent)
    image = sampled(guided(batch), latent, noise=noise)[:1]
    alone = different_people(loaded, frames[:1])
    assert_near(image, sampled(guided(alone), methods.empty_latent(), noise=noise[:1]), 1e-4)


def test_counts_that_do_not_pair_up_are_refused(loaded):
    latent = methods.empty_latent(2)
    three = different_people(loaded, [frame(0.0)] * 3, latent)
    with pytest.raises(ValueError, match="has 3 frames, but the sampler's latent has 2 images"):
        sampled(guided(three), latent)
    with pytest.raises(ValueError, match="'pose' has 3 and 'mask of instance 1' has 2"):
        different_people(loaded, [frame(0.0)] * 3, masks=(torch.ones(2, SIZE, SIZE), None))
    with pytest.raises(ValueError, match="frame 2 of the pose: .* has 1 people"):
        different_people(loaded, [frame(0.0), frame(0.0, people=1)])


# ---- what other nodes and packs do to the conditionings


def test_a_zeroed_positive_is_an_empty_negative_for_every_person(loaded):
    zero = core.ConditioningZeroOut().zero_out
    people = different_people(loaded)
    composed = sampled(guided(people, negative=zero(people.positive)[0]), people.latent)
    emptied = different_people(loaded._replace(negative=zero(loaded.negative)[0]))
    assert_near(composed, sampled(guided(emptied), people.latent), 1e-5)
    cfg_one = sampled(guided(people, cfg=1.0), people.latent)
    assert float((composed - cfg_one).norm() / cfg_one.norm()) > 0.01


@pytest.mark.parametrize(
    "change",
    [
        lambda positive, other: core.ConditioningAverage().addWeighted(positive, other, 0.5)[0],
        lambda positive, other: core.ConditioningConcat().concat(positive, other)[0],
    ],
    ids=["average", "concat"],
)
def test_a_positive_that_is_changed_behind_compose_is_refused(loaded, change):
    people = different_people(loaded)
    changed = change(people.positive, text(loaded, "a tree"))
    with pytest.raises(ValueError, match="Connect that node before Compose Instances"):
        sampled(guided(people, positive=changed), people.latent)


def test_deep_copied_conditionings_are_the_same_people(loaded):
    people = different_people(loaded)
    copied = guided(people, copy.deepcopy(people.positive), copy.deepcopy(people.negative))
    assert torch.equal(sampled(copied, people.latent), sampled(guided(people), people.latent))


def cropped(conditioning, box):
    """Crop and enlarge the hints of all controls, as packs that sample an image in tiles do."""
    x, y, side = box

    def crop(control):
        control = control.copy()
        hint = control.cond_hint_original
        hint = torch.nn.functional.interpolate(hint, (SIZE, SIZE), mode="bilinear")
        hint = hint[..., y : y + side, x : x + side]
        control.cond_hint_original = torch.nn.functional.interpolate(hint, (SIZE, SIZE))
        return control

    return [[t, {**entry, "control": crop(entry["control"])}] for t, entry in conditioning]


@MODES
def test_a_cropped_control_composes_what_is_in_the_crop(loaded, mode):
    people = different_people(loaded, mode=mode)
    box = (SIZE // 4, 0, SIZE // 2)
    tile = guided(people, cropped(people.positive, box), cropped(people.negative, box))

    def enlarged(values):
        return [
            ((value - (box[0], box[1], 0)[k % 3]) * 2 if k % 3 < 2 else value)
            for k, value in enumerate(values)
        ]

    pose = frame(0.0)
    for person in pose["people"]:
        person["pose_keypoints_2d"] = enlarged(person["pose_keypoints_2d"])
    expected = sampled(guided(different_people(loaded, [pose], mode=mode)), people.latent)
    uncropped = sampled(guided(people), people.latent)
    image = sampled(tile, people.latent)
    error, change = (float((other - expected).norm()) for other in (image, uncropped))
    assert error < 0.75 * change  # a crop is coarser than a drawing


def test_tiles_inside_one_sampling_are_refused(loaded):
    people = different_people(loaded)
    model = people.model.clone()

    def in_tiles(apply_model, arguments):
        halves = arguments["input"].chunk(2, -1)
        return torch.cat(
            [apply_model(half, arguments["timestep"], **arguments["c"]) for half in halves], -1
        )

    model.set_model_unet_function_wrapper(in_tiles)
    with pytest.raises(ValueError, match="^Compose Instances: .* samples in tiles"):
        sampled(guided(people._replace(model=model)), people.latent)


# ---- a person's prompt


def with_entry(conditioning, **entry):
    return [[words, {**old, **entry}] for words, old in conditioning]


@pytest.mark.parametrize(
    "carried, words",
    [
        ({"start_percent": 0.2}, "a timestep range"),
        ({"end_percent": 0.7}, "a timestep range"),
        ({"strength": 0.5}, "an area strength"),
        ({"area": (8, 8, 0, 0)}, "an area"),
        ({"area": ("percentage", 0.5, 0.5, 0, 0)}, "an area"),
        ({"mask": torch.ones(1, 8, 8)}, "a mask"),
        ({"control": object()}, "a ControlNet"),
        ({"gligen": ("position", None, [])}, "GLIGEN"),
        ({"default": True}, "default"),
        ({"concat_latent_image": torch.ones(1, 4, 8, 8)}, "inpaint"),
    ],
)
def test_what_a_persons_prompt_can_not_carry_is_refused_by_name(loaded, carried, words):
    prompt = with_entry(loaded.positive, **carried)
    with pytest.raises(ValueError, match=f"'conditioning' carries .*{words}"):
        VitruvianAddInstance.execute(prompt, 1, 0, 1.0)


def test_a_prompt_of_several_parts_is_refused(loaded):
    with pytest.raises(ValueError, match="'conditioning' gives 2 parts"):
        VitruvianAddInstance.execute([*loaded.positive, *loaded.negative], 1, 0, 1.0)


def test_a_full_range_and_an_ordinary_strength_are_a_plain_prompt(loaded):
    prompt = with_entry(loaded.positive, start_percent=0.0, end_percent=1.0, strength=1.0)
    assert len(VitruvianAddInstance.execute(prompt, 1, 0, 1.0).result[0]) == 1
