"""The maps that Show Human Attention shows: against maps made explicitly, beside other patches and
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


def picture(*size, seed=2):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed))


def look(model, conditioning, samples, moments=MOMENTS, on_step=lambda count: None):
    return host.read_maps(model, conditioning, samples, moments, SEED, COLUMNS, on_step)


def explicit(unet, chain, human, seen):
    """A copy of the UNet whose cross-attentions make every map of the chain of (prior, gamma, mask)
    and leave the combined one in `seen`.
    """
    unet = copy.deepcopy(unet)
    for place, attention in human_prior.cross_attentions(unet).items():

        def forward(x, context=None, *_, own=attention, place=place, **__):
            q, k, v = own.to_q(x), own.to_k(context), own.to_v(context)
            attention = maths.attention_map(q, k, own.heads)
            for prior, gamma, mask in chain:
                key = prior.layers[place](context, k)
                if mask == maths.KEYS:
                    key = key * human[:, None] + k * ~human[:, None]
                of_humans = maths.human_map(q, key, human[None], own.heads, mask)
                share = (1 - gamma) * STRENGTHS[place[0]]
                attention = (1 - share) * attention + share * of_humans
            seen[place] = attention[0]
            return own.to_out(maths.apply_map(attention, v))

        attention.forward = forward
    return unet


def expected(model, conditioning, samples, moment, chain=()):
    """Each word's map [words, h * w] at each cross-attention, by the explicit network."""
    base, seen = model.model, {}
    text, entry = conditioning[0]
    unet = explicit(base.diffusion_model, chain, entry[human_prior.HUMAN], seen)
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
        for place, m in seen.items()
    }


def assert_same(found, wanted):
    assert set(found) == set(wanted)
    for place, maps in found.items():
        torch.testing.assert_close(maps.flatten(1), wanted[place], atol=2e-5, rtol=2e-3)


def assert_equal(looks, others):
    """Bit for bit, without priors."""
    for one, other in zip(looks, others, strict=True):
        assert set(one.ordinary) == set(other.ordinary)
        assert all(torch.equal(maps, other.ordinary[k]) for k, maps in one.ordinary.items())


@pytest.mark.parametrize("mask", maths.MASKS)
def test_equals_explicit_maps_for_every_family(family, random_text, mask):
    model, text, samples = family[0], mark(random_text(family[0], 1)), picture(8, 8)
    prior = random_prior(model)
    looks = look(apply(model, prior, mask=mask), text, samples)
    for moment, (without, with_priors) in zip(MOMENTS, looks, strict=True):
        assert_same(without, expected(model, text, samples, moment))
        assert_same(with_priors, expected(model, text, samples, moment, [(prior, 0.6, mask)]))


def test_odd_sizes_keep_their_grids(loaded, prompt):
    model, prior, samples = loaded[0], random_prior(loaded[0]), picture(7, 11)
    (seen,) = look(apply(model, prior), mark(prompt), samples, [0.5])
    wanted = expected(model, mark(prompt), samples, 0.5, [(prior, 0.6, maths.BEFORE)])
    assert_same(seen.with_priors, wanted)
    assert {tuple(maps.shape[1:]) for maps in seen.ordinary.values()} == {(4, 6), (2, 3)}


def test_two_priors_add_their_maps_in_turn(loaded, prompt):
    model, samples = loaded[0], picture(8, 8)
    one, other = random_prior(model, 3), random_prior(model, 4)
    made = apply(apply(model, one), other, gamma=0.3, mask=maths.AFTER)
    (seen,) = look(made, mark(prompt), samples, [0.5])
    chain = [(one, 0.6, maths.BEFORE), (other, 0.3, maths.AFTER)]
    assert_same(seen.ordinary, expected(model, mark(prompt), samples, 0.5))
    assert_same(seen.with_priors, expected(model, mark(prompt), samples, 0.5, chain))


def test_a_prior_is_seen_where_and_when_it_works(loaded, prompt):
    model, prior, samples = loaded[0], random_prior(loaded[0]), picture(8, 8)
    first = min(prior.layers)
    prior = prior._replace(layers={first: prior.layers[first]})
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    early, late = look(apply(model, prior, end=0.5, area=left), mark(prompt), samples)
    for place, maps in late.ordinary.items():
        assert torch.equal(late.with_priors[place], maps)
    whole, _ = look(apply(model, prior, end=0.5), mark(prompt), samples)
    found, half = early.with_priors[first], early.ordinary[first].shape[-1] // 2
    assert torch.equal(found[..., half:], early.ordinary[first][..., half:])
    torch.testing.assert_close(found[..., :half], whole.with_priors[first][..., :half])
    assert not torch.allclose(found, early.ordinary[first], atol=1e-3)


def test_silent_priors_are_no_priors(loaded, prompt):
    model, samples = loaded[0], picture(8, 8).expand(2, -1, -1, -1)
    plain = look(model, prompt, samples)
    assert all(each.with_priors is None for each in plain)
    assert_equal(plain, look(apply(model, random_prior(model)), prompt, samples))


def test_the_ends_of_the_sampling_and_parts_of_a_picture(loaded, prompt):
    model, samples, sigmas = loaded[0], picture(8, 8), []

    def listen(executor, x, sigma, *args, **kwargs):
        sigmas.append(float(sigma))
        return executor(x, sigma, *args, **kwargs)

    listening = model.clone()
    listening.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "listen", listen)
    look(listening, prompt, samples, [0.0, 1.0])
    sampling = model.get_model_object("model_sampling")
    assert sigmas == [float(sampling.sigma_max), float(sampling.sigma_min)]
    part = [[t, {**e, "area": (4, 8, 0, 0), "start_percent": 0.9}] for t, e in prompt]
    assert_equal(look(model, prompt, samples), look(model, part, samples))


def test_other_packs_count_and_guidance_does_not(loaded, prompt):
    model, samples = loaded[0], picture(8, 8)
    plain = look(model, prompt, samples)

    def foreign(n, context, value, extra):
        return n, context * 1.5, value

    patched = model.clone()
    patched.set_model_attn2_patch(foreign)
    found, place = look(patched, prompt, samples), min(plain[0].ordinary)
    assert not torch.allclose(found[0].ordinary[place], plain[0].ordinary[place], atol=1e-3)

    def again(args):
        comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"] * 2, args["sigma"], args["model_options"]
        )
        return args["denoised"]

    guided = model.clone()
    guided.set_model_sampler_post_cfg_function(again)
    assert_equal(plain, look(guided, prompt, samples))


def test_the_model_is_as_it_was(loaded, prompt):
    made, negative = apply(loaded[0], random_prior(loaded[0])), mark(prompt)

    def sample():
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        (out,) = core.common_ksampler(made, 7, 2, 4.0, "euler", "normal", prompt, negative, latent)
        return out["samples"]

    before, options = sample(), copy.copy(made.model_options["transformer_options"])
    random = torch.get_rng_state()
    look(made, prompt, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert made.model_options["transformer_options"] == options
    assert torch.equal(sample(), before)


def test_it_can_be_cancelled_at_every_moment(loaded, prompt):
    told = []

    def cancel(count):
        told.append(count)
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        look(loaded[0], prompt, picture(8, 8), on_step=cancel)
    assert told == [1]


def test_what_is_recorded_can_be_learnt_from(family, random_text):
    model, told = family[0], {}
    model.model.requires_grad_(False)
    with torch.inference_mode(False), torch.enable_grad():
        prior = random_prior(model)
        for layer in prior.layers.values():
            layer.requires_grad_(True)
        made = apply(model, prior)

        def record(place, chunk, share, of_humans):
            told[place] = share, of_humans.requires_grad, of_humans.sum(-1)

        def once(denoise, x, sigmas, extra_args, **_):
            denoise(x, sigmas[:1].expand(len(x)), **extra_args)
            return x

        made.model_options["transformer_options"][human_prior.RECORD] = record
        text, samples = mark(random_text(model, 1)), picture(8, 8).repeat(2, 1, 1, 1)
        comfy.sample.sample_custom(
            made,
            samples,
            1.0,
            comfy.samplers.KSAMPLER(once),
            torch.tensor([2.0, 0.0]),
            text,
            text,
            samples,
            disable_pbar=True,
        )
    assert set(told) == set(prior.layers)
    assert all(learns for _, learns, _ in told.values())
    for (stage, *_), (share, _, sums) in told.items():
        assert share == pytest.approx(0.4 * STRENGTHS[stage])
        assert len(sums) == 2
        torch.testing.assert_close(sums, torch.ones_like(sums))


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_composed_people_leave_the_scene_its_maps(loaded, mode):
    """The scene's own stream is the one that is seen; the mode couple has none."""
    model, clip, net = loaded
    scene, long = (
        VitruvianEncodeHumanPrompt.execute(clip, text, "", "").result[0]
        for text in ("a man in a park", "a woman waving, " * 40)
    )
    assert long[0][0].shape[1] > scene[0][0].shape[1]
    flat = [32.0, 32.0, 1.0] * 18
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    settings = (mode, 0.0, 0.5, 0.06, 0.0, 1.0, people.SCENE, True)
    composed, positive, _ = people.VitruvianComposeInstances.execute(
        model, scene, scene, (compose.Instance(long, 1),), frames, net, *settings
    ).result
    if mode == "couple":
        with pytest.raises(ValueError, match="another node .* replaces the prompt"):
            look(composed, positive, picture(8, 8), [0.5])
        return
    (seen,) = look(composed, positive, picture(8, 8), [0.5])
    (alone,) = look(model, scene, picture(8, 8), [0.5])
    first = min(seen.ordinary)  # beyond it the mixed features differ
    torch.testing.assert_close(seen.ordinary[first], alone.ordinary[first], atol=1e-5, rtol=1e-3)


def node(model, positive, samples, words="", moments="0.2, 0.9", image=None):
    return VitruvianShowHumanAttention.execute(
        model, positive, {"samples": samples}, words, moments, SEED, image
    )


def test_the_node_shows_a_sheet_for_every_word(loaded, prompt):
    made = apply(loaded[0], random_prior(loaded[0]))
    sheets, masks = node(made, prompt, picture(8, 12)).result
    assert sheets.shape[0] == 2 and sheets.shape[-1] == 3  # man, waving
    assert masks.shape == (2, 64, 96) and masks.amax((1, 2)).tolist() == [1.0, 1.0]
    one, _ = node(loaded[0], prompt, picture(8, 12)).result
    assert one.shape[1] < sheets.shape[1] and one.shape[2] == sheets.shape[2]
    image = torch.rand(1, 50, 70, 3)
    chosen = node(made, prompt, picture(8, 12), "Park, a man, wave", image=image)
    sheets, masks = chosen.result
    assert len(sheets) == 3 and masks.shape == (3, 50, 70)
    assert len(chosen.ui.as_dict()["images"]) == 3
    columns = [
        human_attention.phrase_positions(word, prompt[0][1][human_prior.WORDS])
        for word in ("park", "man")
    ]
    looks = host.read_maps(made, prompt, picture(8, 12), [0.2, 0.9], SEED, columns, lambda count: None)
    wanted = human_attention.word_masks(
        [human_attention.average_layers(each.with_priors.values()) for each in looks], 50, 70
    )
    torch.testing.assert_close(masks[0], wanted[0])


def test_what_does_not_fit_is_said(loaded, prompt):
    model, samples = loaded[0], picture(8, 8)
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
    other = SimpleNamespace(get_model_object=lambda name: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"^Show Human Attention knows SD1.5, .* another network \(Linear\)"):
        node(other, prompt, samples)

    def doubling(*x):
        return tuple(torch.cat((t, t)) for t in x[:3])

    couple = model.clone()
    couple.set_model_attn2_patch(doubling)
    couple.set_model_attn2_output_patch(lambda n, extra: n.chunk(2)[0])
    with pytest.raises(ValueError, match="another node .* changes the batch"):
        node(couple, prompt, samples)
