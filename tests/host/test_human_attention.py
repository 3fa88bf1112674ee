"""The maps of Show Human Attention: against maps computed explicitly, beside other patches and
priors, and misuse.
"""

import copy
from types import SimpleNamespace

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host import human_attention as host
from vitruvian.host import human_prior
from vitruvian.host.registration import register
from vitruvian.models import compose, human_attention
from vitruvian.models import human_prior as maths
from vitruvian.nodes import compose as people
from vitruvian.nodes.human_attention import VitruvianShowHumanAttention
from vitruvian.nodes.human_prior import VitruvianEncodeHumanPrompt

import nodes as core

register()
HUMAN = (2, 5)  # the marked tokens
COLUMNS = [(2,), (5, 6)]
MOMENTS = [0.3, 0.8]
SEED = 11
STRENGTHS = {maths.DOWN: 1.0, maths.MID: 0.5, maths.UP: 0.8}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def loaded(mini_weights):
    with torch.inference_mode():
        model, clip, _ = core.CheckpointLoaderSimple().load_checkpoint(
            "vitruvian_mini.safetensors"
        )[:3]
        net = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")[0]
    return model, clip, net


@pytest.fixture(scope="module")
def prompt(loaded):
    with torch.inference_mode():
        return VitruvianEncodeHumanPrompt.execute(loaded[1], "a man waving, a park", "", "").result[
            0
        ]


def random_prior(model, seed=3):
    """A layer beside every cross-attention key."""
    g = torch.Generator().manual_seed(seed)
    layers = {}
    for place, attention in human_prior.cross_attentions(model.model.diffusion_model).items():
        inner, context = attention.to_k.weight.shape
        layer = maths.PriorLayer(context, inner, 8).requires_grad_(False)
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
        layers[place] = layer
    return human_prior.Prior(layers, 0.6, maths.BEFORE, "random")


def apply(model, prior, *, gamma=0.6, mask=maths.BEFORE, start=0.0, end=1.0, area=None):
    return human_prior.apply(
        model, prior, human_prior.Settings(gamma, mask, STRENGTHS, start, end, area)
    )


def mark(conditioning):
    human = torch.zeros(conditioning[0][0].shape[1], dtype=torch.bool)
    human[list(HUMAN)] = True
    return [[text, {**entry, human_prior.HUMAN: human}] for text, entry in conditioning]


def random_latent(*size, seed=2):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed))


def read_maps(model, conditioning, samples, moments=MOMENTS, on_step=lambda count: None):
    return host.read_maps(model, conditioning, samples, moments, SEED, COLUMNS, on_step)


def explicit(unet, chain, human, combined_maps):
    """A copy of the UNet whose cross-attentions compute every map and store the combined one in
    `combined_maps`. chain: of (prior, gamma, mask).
    """
    unet = copy.deepcopy(unet)
    for place, attention in human_prior.cross_attentions(unet).items():

        def forward(x, context=None, *_, layer=attention, place=place, **__):
            q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(context)
            attention = ordinary = maths.attention_map(q, k, layer.heads)
            for prior, gamma, mask in chain:
                key = prior.layers[place](context, k)
                if mask == maths.KEYS:
                    key = key * human[:, None] + k * ~human[:, None]
                human_map = maths.human_map(q, key, human[None], layer.heads, mask)
                share = (1 - gamma) * STRENGTHS[place[0]]
                attention = attention + share * (human_map - ordinary)
            combined_maps[place] = attention[0]
            return layer.to_out(maths.apply_map(attention, v))

        attention.forward = forward
    return unet


def expected(model, conditioning, samples, moment, chain=()):
    """Each word's map [words, h * w] at each cross-attention, by the explicit network."""
    base, combined_maps = model.model, {}
    text, entry = conditioning[0]
    unet = explicit(base.diffusion_model, chain, entry[human_prior.HUMAN], combined_maps)
    sampling = base.model_sampling
    sigma = torch.tensor([sampling.percent_to_sigma(moment)])
    noise = torch.randn(samples[:1].shape, generator=torch.Generator().manual_seed(SEED))
    x = base.process_latent_in(samples[:1]) + sigma * noise
    unet(
        sampling.calculate_input(sigma, x),
        sampling.timestep(sigma).float(),
        text,
        y=base.encode_adm(
            device="cpu", **{k: v for k, v in entry.items() if k != human_prior.HUMAN}
        ),
    )
    return {
        place: torch.stack([m.mean(0)[:, list(tokens)].sum(-1) for tokens in COLUMNS])
        for place, m in combined_maps.items()
    }


def assert_same(actual, expected_maps):
    assert set(actual) == set(expected_maps)
    for place, maps in actual.items():
        torch.testing.assert_close(maps.flatten(1), expected_maps[place], atol=2e-5, rtol=2e-3)


def assert_equal(first_maps, second_maps):
    """Bit for bit, without priors."""
    for first, second in zip(first_maps, second_maps, strict=True):
        assert set(first.ordinary) == set(second.ordinary)
        assert all(torch.equal(maps, second.ordinary[k]) for k, maps in first.ordinary.items())


@pytest.mark.parametrize("mask", maths.MASKS)
def test_equals_explicit_maps_for_every_family(family, random_text, mask):
    model, text, samples = family[0], mark(random_text(family[0], 1)), random_latent(8, 8)
    prior = random_prior(model)
    moments_maps = read_maps(apply(model, prior, mask=mask), text, samples)
    for moment, (without, with_priors) in zip(MOMENTS, moments_maps, strict=True):
        assert_same(without, expected(model, text, samples, moment))
        assert_same(with_priors, expected(model, text, samples, moment, [(prior, 0.6, mask)]))


def test_odd_sizes_keep_their_grids(loaded, prompt):
    model, prior, samples = loaded[0], random_prior(loaded[0]), random_latent(7, 11)
    (moment,) = read_maps(apply(model, prior), mark(prompt), samples, [0.5])
    expected_maps = expected(model, mark(prompt), samples, 0.5, [(prior, 0.6, maths.BEFORE)])
    assert_same(moment.with_priors, expected_maps)
    assert {tuple(maps.shape[1:]) for maps in moment.ordinary.values()} == {(4, 6), (2, 3)}


def test_two_priors_add_their_maps(loaded, prompt):
    model, samples = loaded[0], random_latent(8, 8)
    first, second = random_prior(model, 3), random_prior(model, 4)
    patched = apply(apply(model, first), second, gamma=0.3, mask=maths.AFTER)
    (moment,) = read_maps(patched, mark(prompt), samples, [0.5])
    chain = [(first, 0.6, maths.BEFORE), (second, 0.3, maths.AFTER)]
    assert_same(moment.ordinary, expected(model, mark(prompt), samples, 0.5))
    assert_same(moment.with_priors, expected(model, mark(prompt), samples, 0.5, chain))


def test_a_prior_counts_where_and_when_it_works(loaded, prompt):
    model, prior, samples = loaded[0], random_prior(loaded[0]), random_latent(8, 8)
    first = min(prior.layers)  # what follows sees its result
    left_half = torch.zeros(1, 1, 64, 64)
    left_half[..., :32] = 1
    early, late = read_maps(apply(model, prior, end=0.5, area=left_half), mark(prompt), samples)
    for place, maps in late.ordinary.items():
        assert torch.equal(late.with_priors[place], maps)
    everywhere, _ = read_maps(apply(model, prior, end=0.5), mark(prompt), samples)
    maps_with_prior, half = early.with_priors[first], early.ordinary[first].shape[-1] // 2
    assert torch.equal(maps_with_prior[..., half:], early.ordinary[first][..., half:])
    torch.testing.assert_close(
        maps_with_prior[..., :half], everywhere.with_priors[first][..., :half]
    )
    assert not torch.allclose(maps_with_prior, early.ordinary[first], atol=1e-3)


def test_silent_priors_are_no_priors(loaded, prompt):
    model, samples = loaded[0], random_latent(8, 8).expand(2, -1, -1, -1)
    plain = read_maps(model, prompt, samples)
    assert all(moment.with_priors is None for moment in plain)
    assert_equal(plain, read_maps(apply(model, random_prior(model)), prompt, samples))


def test_the_ends_of_the_sampling_and_parts_of_an_image(loaded, prompt):
    model, samples, sigmas = loaded[0], random_latent(8, 8), []

    def listen(executor, x, sigma, *args, **kwargs):
        sigmas.append(float(sigma))
        return executor(x, sigma, *args, **kwargs)

    listening = model.clone()
    listening.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "listen", listen)
    read_maps(listening, prompt, samples, [0.0, 1.0])
    sampling = model.get_model_object("model_sampling")
    assert sigmas == [float(sampling.sigma_max), float(sampling.sigma_min)]


def limited(conditioning, **limits):
    return [[t, {**e, **limits}] for t, e in conditioning]


def test_the_prompt_that_acts_at_a_moment_is_read(loaded, prompt):
    """Ranges of timesteps say which of several entries that is; a mask limits predictions only."""
    model, samples = loaded[0], random_latent(8, 8)
    other = [[t.flip(1), e] for t, e in prompt]
    ranges = [*limited(prompt, end_percent=0.5), *limited(other, start_percent=0.5)]
    clip_ranges = [
        *limited(prompt, clip_start_percent=0.0, clip_end_percent=0.5),
        *limited(other, clip_start_percent=0.5, clip_end_percent=1.0),
    ]
    first, second = (read_maps(model, conditioning, samples) for conditioning in (prompt, other))
    for conditioning in (ranges, clip_ranges):
        early, late = read_maps(model, conditioning, samples)
        assert_equal([early], first[:1])
        assert_equal([late], second[1:])
        (middle,) = read_maps(model, conditioning, samples, [0.5])
        assert_equal([middle], read_maps(model, other, samples, [0.5]))
    masked = limited(prompt, mask=torch.zeros(1, 64, 64), mask_strength=1.0)
    assert_equal(read_maps(model, masked, samples), first)


def test_prompts_that_can_not_be_read_are_refused(loaded, prompt):
    model, samples = loaded[0], random_latent(8, 8)
    two = [*prompt, *prompt]
    bounds = {"mask": torch.ones(1, 8, 8), "set_area_to_bounds": True}
    for wrong, reason in (
        (two, "'positive' holds 2 prompts at once"),
        (limited(prompt, start_percent=0.9), "no prompt of 'positive' acts when 20% of the"),
        (limited(prompt, area=(4, 8, 0, 0)), "has an area"),
        (limited(prompt, **bounds), "has an area"),
    ):
        with pytest.raises(ValueError, match=f"^Show Human Attention: .*{reason}"):
            node(model, wrong, samples)
    words = {human_prior.WORDS: (*prompt[0][1][human_prior.WORDS], None)}
    with pytest.raises(ValueError, match="several prompts with different words"):
        node(model, [*prompt, *limited(prompt, **words)], samples)


def test_other_packs_count_and_guidance_does_not(loaded, prompt):
    model, samples = loaded[0], random_latent(8, 8)
    plain = read_maps(model, prompt, samples)

    def foreign(n, context, value, extra):
        return n, context * 1.5, value

    patched = model.clone()
    patched.set_model_attn2_patch(foreign)
    moments_maps, place = read_maps(patched, prompt, samples), min(plain[0].ordinary)
    assert not torch.allclose(moments_maps[0].ordinary[place], plain[0].ordinary[place], atol=1e-3)

    def call_again(args):
        comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"] * 2, args["sigma"], args["model_options"]
        )
        return args["denoised"]

    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(call_again)
    assert_equal(plain, read_maps(guided, prompt, samples))


def test_the_model_is_as_it_was(loaded, prompt):
    patched, negative = apply(loaded[0], random_prior(loaded[0])), mark(prompt)

    def sample():
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        (out,) = core.common_ksampler(
            patched, 7, 2, 4.0, "euler", "normal", prompt, negative, latent
        )
        return out["samples"]

    before, options = sample(), copy.copy(patched.model_options["transformer_options"])
    random = torch.get_rng_state()
    read_maps(patched, prompt, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert patched.model_options["transformer_options"] == options
    assert torch.equal(sample(), before)


def test_it_can_be_cancelled_at_every_moment(loaded, prompt):
    counts = []

    def cancel(count):
        counts.append(count)
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        read_maps(loaded[0], prompt, random_latent(8, 8), on_step=cancel)
    assert counts == [1]


def test_what_is_recorded_can_be_differentiated(family, random_text):
    model, records = family[0], {}
    model.model.requires_grad_(False)
    with torch.inference_mode(False), torch.enable_grad():
        prior = random_prior(model)
        for layer in prior.layers.values():
            layer.requires_grad_(True)
        patched = apply(model, prior)

        def record(place, chunk, share, human_map):
            records[place] = share, human_map.requires_grad, human_map.sum(-1)

        def once(denoise, x, sigmas, extra_args, **_):
            denoise(x, sigmas[:1].expand(len(x)), **extra_args)
            return x

        patched.model_options["transformer_options"][human_prior.RECORD] = record
        text, samples = mark(random_text(model, 1)), random_latent(8, 8).repeat(2, 1, 1, 1)
        comfy.sample.sample_custom(
            patched,
            samples,
            1.0,
            comfy.samplers.KSAMPLER(once),
            torch.tensor([2.0, 0.0]),
            text,
            text,
            samples,
            disable_pbar=True,
        )
    assert set(records) == set(prior.layers)
    assert all(learns for _, learns, _ in records.values())
    for (stage, *_), (share, _, sums) in records.items():
        assert share == pytest.approx(0.4 * STRENGTHS[stage])
        assert len(sums) == 2
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_composed_people_leave_the_scene_its_maps(loaded, mode):
    """The scene's own stream is the one that is read; the mode couple has none."""
    model, clip, net = loaded
    scene, long = (
        VitruvianEncodeHumanPrompt.execute(clip, text, "", "").result[0]
        for text in ("a man in a park", "a woman waving, " * 40)
    )
    assert long[0][0].shape[1] > scene[0][0].shape[1]
    flat = [32.0, 32.0, 1.0] * 18
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    settings = {
        "mode": mode,
        "strength": 0.0,
        "harmony": 0.5,
        "dilation": 0.06,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "background_prompt": people.SCENE,
        "shared_negative": True,
    }
    composed, positive, _ = people.VitruvianComposeInstances.execute(
        model, scene, scene, (compose.Instance(long, 1),), frames, net, **settings
    ).result[:3]
    if mode == "couple":
        with pytest.raises(ValueError, match="another node .* changes the batch"):
            read_maps(composed, positive, random_latent(8, 8), [0.5])
        return
    (in_composition,) = read_maps(composed, positive, random_latent(8, 8), [0.5])
    (alone,) = read_maps(model, scene, random_latent(8, 8), [0.5])
    first = min(in_composition.ordinary)  # beyond it the mixed features differ
    torch.testing.assert_close(
        in_composition.ordinary[first], alone.ordinary[first], atol=1e-5, rtol=1e-3
    )


def node(model, positive, samples, words="", moments="0.2, 0.9", image=None):
    return VitruvianShowHumanAttention.execute(
        model, positive, {"samples": samples}, words, moments, SEED, image
    )


def test_the_node_shows_a_sheet_for_every_word(loaded, prompt):
    patched = apply(loaded[0], random_prior(loaded[0]))
    sheets, masks = node(patched, prompt, random_latent(8, 12)).result
    assert sheets.shape[0] == 2 and sheets.shape[-1] == 3  # man, waving
    assert masks.shape == (2, 64, 96) and masks.amax((1, 2)).tolist() == [1.0, 1.0]
    plain_sheets, _ = node(loaded[0], prompt, random_latent(8, 12)).result
    assert plain_sheets.shape[1] < sheets.shape[1] and plain_sheets.shape[2] == sheets.shape[2]
    image = torch.rand(1, 50, 70, 3)
    output = node(patched, prompt, random_latent(8, 12), "Park, a man, wave", image=image)
    sheets, masks = output.result
    assert len(sheets) == 3 and masks.shape == (3, 50, 70)
    assert len(output.ui.as_dict()["images"]) == 3
    columns = [
        human_attention.phrase_positions(word, prompt[0][1][human_prior.WORDS])
        for word in ("park", "man")
    ]
    moments_maps = host.read_maps(
        patched, prompt, random_latent(8, 12), [0.2, 0.9], SEED, columns, lambda count: None
    )
    expected_masks = human_attention.word_masks(
        [human_attention.average_layers(moment.with_priors.values()) for moment in moments_maps],
        50,
        70,
    )
    torch.testing.assert_close(masks[0], expected_masks[0])


def test_what_does_not_fit_is_said(loaded, prompt):
    model, samples = loaded[0], random_latent(8, 8)
    plain = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    for wrong in (plain, []):
        with pytest.raises(ValueError, match="Show Human Attention: .* Encode Human Prompt"):
            node(model, wrong, samples)
    with pytest.raises(ValueError, match="'dog', 'a cat': not in .* are a, man, waving, park"):
        node(model, prompt, samples, "man, dog, a cat")
    nobody = VitruvianEncodeHumanPrompt.execute(loaded[1], "a park", "", "").result[0]
    with pytest.raises(ValueError, match="no word of the prompt is marked.*: a, park"):
        node(model, nobody, samples)
    for wrong in ("", "half", "0.1, 1.5", "0.1; 0.2", "nan"):
        with pytest.raises(ValueError, match="'percents' must be numbers from 0 to 1"):
            node(model, prompt, samples, moments=wrong)
    linear = SimpleNamespace(model=None, get_model_object=lambda name: torch.nn.Linear(1, 1))
    with pytest.raises(
        ValueError, match=r"^Show Human Attention knows SD1.5, .* another network \(Linear\)"
    ):
        node(linear, prompt, samples)

    def doubling(*x):
        return tuple(torch.cat((t, t)) for t in x[:3])

    couple = model.clone()
    couple.set_model_attn2_patch(doubling)
    couple.set_model_attn2_output_patch(lambda n, extra: n.chunk(2)[0])
    with pytest.raises(ValueError, match="another node .* changes the batch"):
        node(couple, prompt, samples)
