"""The human-centric prior on the host: against explicit maps, beside other patches, and misuse."""

import copy

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host import human_prior as host
from vitruvian.host.registration import register
from vitruvian.host.sampling import with_patch
from vitruvian.lab.training import convert, preview
from vitruvian.lab.training import human_prior as training
from vitruvian.lab.training.tokens import WordTokenizer, word_pieces
from vitruvian.models import compose, human_prior, pose, pose_drawing, weights
from vitruvian.nodes import compose as people
from vitruvian.nodes import human_prior as ours

import nodes as core

register()
SETTINGS = {  # of Compose Instances, beside the mode
    "strength": 1.0,
    "harmony": 0.5,
    "dilation": 0.06,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "background_prompt": people.MEAN,
    "shared_negative": False,
}
CELLS = 8
INPUTS = {
    "strength": 1.0,
    "gamma": 0.6,
    "mask_tokens": human_prior.BEFORE,
    "start_percent": 0.0,
    "end_percent": 1.0,
    "down_strength": 1.0,
    "middle_strength": 1.0,
    "up_strength": 1.0,
}


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def loaded(mini_weights):
    with torch.inference_mode():
        model, clip, vae = core.CheckpointLoaderSimple().load_checkpoint(
            "vitruvian_mini.safetensors"
        )[:3]
        net = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")[0]
    return model, clip, vae, net


def random_prior(model, seed=3):
    """A layer beside every cross-attention key."""
    g = torch.Generator().manual_seed(seed)
    layers = {}
    for place, attention in host.cross_attentions(model.model.diffusion_model).items():
        inner, context = attention.to_k.weight.shape
        layer = human_prior.PriorLayer(context, inner, 8).requires_grad_(False)
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5)
        layers[place] = layer
    return host.Prior(layers, 0.6, human_prior.BEFORE, "random")


def mark(conditioning, *positions):
    human = torch.zeros(conditioning[0][0].shape[1], dtype=torch.bool)
    human[list(positions)] = True
    return [[text, {**entry, host.HUMAN: human}] for text, entry in conditioning]


def apply(model, prior, **changes):
    (patched,) = ours.VitruvianApplyHumanPrior.execute(model, prior, **{**INPUTS, **changes}).result
    return patched


def sample(model, positive, negative, *, cfg=4.0, steps=2, batch=1, size=(CELLS, CELLS), **how):
    latent = {"samples": torch.zeros(batch, 4, *size)}
    return core.common_ksampler(
        model, 7, steps, cfg, how.get("sampler", "euler"), "normal", positive, negative, latent
    )[0]["samples"]


def spying(model, calls):
    def spy(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        calls.append((x, t, out, args[3]["cond_or_uncond"]))
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    return model


def positives(calls):
    """The results of positive chunks."""
    return [out for *_, outs, kinds in calls for out, k in zip(outs, kinds, strict=True) if k == 0]


def explicit(unet, prior, human, gamma, mask):
    """A copy of the UNet whose cross-attentions compute both maps and add them."""
    unet = copy.deepcopy(unet)
    for place, attention in host.cross_attentions(unet).items():

        def forward(x, context=None, *_, attention=attention, layer=prior.layers[place], **__):
            q, k, v = attention.to_q(x), attention.to_k(context), attention.to_v(context)
            human_key = layer(context, k)
            if mask == human_prior.KEYS:
                human_key = human_key * human[:, None] + k * ~human[:, None]
            combined = human_prior.combined_map(
                human_prior.attention_map(q, k, attention.heads),
                human_prior.human_map(q, human_key, human[None], attention.heads, mask),
                gamma,
            )
            return attention.to_out(human_prior.apply_map(combined, v))

        attention.forward = forward
    return unet


@pytest.mark.parametrize("mask", human_prior.MASKS)
def test_equals_explicit_maps_for_every_family(family, random_text, mask):
    model, calls = family[0], []
    positive, negative = mark(random_text(model, 1), 2, 5), random_text(model, 2)
    prior, base = random_prior(model), model.model
    sample(spying(apply(model, prior, mask_tokens=mask), calls), positive, negative, steps=1)
    with_maps = explicit(base.diffusion_model, prior, positive[0][1][host.HUMAN], 0.6, mask)
    rows = [row for *parts, kinds in calls for row in zip(*parts, kinds, strict=True)]
    assert sorted(kind for *_, kind in rows) == [0, 1]
    sampling = base.model_sampling
    for x, sigma, denoised, kind in rows:
        x, sigma = x[None], sigma[None]
        text, entry = (positive, negative)[kind][0]
        unet = with_maps if kind == 0 else base.diffusion_model
        noise = unet(
            sampling.calculate_input(sigma, x),
            sampling.timestep(sigma).float(),
            text,
            y=base.encode_adm(device="cpu", **{k: v for k, v in entry.items() if k != host.HUMAN}),
        )
        expected = sampling.calculate_denoised(sigma, noise, x)
        error = (denoised - expected[0]).norm() / (x - expected).norm()
        assert float(error) < 1e-4


def test_nothing_to_do_is_the_base_bit_for_bit(loaded):
    model, prior = loaded[0], random_prior(loaded[0])
    words = core.CLIPTextEncode().encode(loaded[1], "a man waving")[0]
    positive, nobody, negative = mark(words, 2), mark(words), mark(words)
    plain = sample(model, words, negative)
    for changes in (
        {"strength": 0.0},
        {"gamma": 1.0},
        {"down_strength": 0.0, "middle_strength": 0.0, "up_strength": 0.0},
        {"start_percent": 0.3, "end_percent": 0.4},  # between the two steps
    ):
        assert torch.equal(sample(apply(model, prior, **changes), positive, negative), plain)
    assert torch.equal(sample(apply(model, prior), nobody, negative), plain)
    assert not torch.allclose(sample(apply(model, prior), positive, negative), plain, atol=1e-2)
    assert torch.equal(sample(model, words, negative), plain)  # the model itself is as it was


@pytest.mark.parametrize(
    "settings",
    [
        {"cfg": 1.0},
        {"batch": 2},
        {"size": (7, 11)},
        {"sampler": "dpmpp_2m_sde"},
    ],
)
def test_sizes_batches_and_samplers_repeat(loaded, settings):
    patched = apply(loaded[0], random_prior(loaded[0]))
    words = core.CLIPTextEncode().encode(loaded[1], "a man waving")[0]
    first = sample(patched, mark(words, 2), mark(words), **settings)
    assert first.isfinite().all()
    assert torch.equal(first, sample(patched.clone(), mark(words, 2), mark(words), **settings))


@pytest.mark.parametrize("mask", human_prior.MASKS)
def test_two_positives_have_their_own_words_and_long_texts_repeat_nothing(loaded, mask):
    model, prior, calls = loaded[0], random_prior(loaded[0]), []
    encode = core.CLIPTextEncode().encode
    short, long = encode(loaded[1], "a man")[0], encode(loaded[1], "a woman, " * 40)[0]
    first, second, negative = mark(short, 2), mark(long, 2, 80), mark(short)
    patched = spying(apply(model, prior, mask_tokens=mask), calls)
    sample(patched, [*first, *second], negative, steps=1)
    single_calls: list = []
    for positive in (first, second):
        sample(
            spying(apply(model, prior, mask_tokens=mask), single_calls), positive, negative, steps=1
        )
    together, apart = positives(calls), positives(single_calls)
    assert len(together) == len(apart) == 2
    for expected in apart:
        assert min(float((result - expected).abs().max()) for result in together) < 1e-4


def test_a_mask_says_where(loaded):
    """Read at the first cross-attention, beyond which everything mixes."""
    model, prior = loaded[0], random_prior(loaded[0])
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    first = min(prior.layers)
    left_half = torch.zeros(1, 64, 64)
    left_half[..., :32] = 1

    def result_at_first(model):
        outs = []

        def listen(n, extra):
            if (*extra["block"], extra["block_index"]) == first:
                outs.append(
                    n[extra["cond_or_uncond"].index(0)].view(*extra["activations_shape"][-2:], -1)
                )
            return n

        model = model.clone()
        model.set_model_attn2_output_patch(listen)
        sample(model, mark(words, 2), mark(words), steps=1)
        return outs[0]

    plain, everywhere = result_at_first(model), result_at_first(apply(model, prior))
    part = result_at_first(apply(model, prior, mask=left_half))
    half = plain.shape[1] // 2
    assert torch.equal(part[:, half:], plain[:, half:])
    torch.testing.assert_close(part[:, :half], everywhere[:, :half])
    assert not torch.allclose(everywhere[:, half:], plain[:, half:], atol=1e-3)


def image_prompt(strength):
    """A replaced cross-attention that adds one of its own to the ordinary one, as image prompts
    do.
    """

    def replace(q, k, v, extra):
        heads = extra["n_heads"]
        ordinary = human_prior.apply_map(human_prior.attention_map(q, k, heads), v)
        image = human_prior.attention_map(q, k.flip(1), heads)
        return ordinary + strength * human_prior.apply_map(image, v)

    return replace


def with_image_prompt(model, strength=0.7):
    model = model.clone()
    for stage, number, index in host.cross_attentions(model.model.diffusion_model):
        model.set_model_attn2_replace(image_prompt(strength), stage, number, index)
    return model


def with_negative_words(model):
    """Turns the value of one token around, as nodes for negative weights do."""

    def patch(n, context, value, extra):
        return n, context, value * token_signs(value.shape[1])[:, None]

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def token_signs(count):
    signs = torch.ones(count)
    signs[3] = -1
    return signs


def with_more_tokens(model):
    def patch(n, context, value, extra):
        return n, torch.cat((context, context[:, 2:4] * 2), 1), torch.cat((value, value[:, 4:6]), 1)

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def with_bigger_results(model):
    model = model.clone()
    model.set_model_attn2_output_patch(lambda n, extra: n * 1.3)
    return model


def with_override(model):
    """A kernel of another pack, here with other numbers, so that it can be seen."""

    def override(function, *args, **kwargs):
        return function(*args, **kwargs) * 1.1

    model = model.clone()
    options = model.model_options["transformer_options"]
    model.model_options["transformer_options"] = {
        **options,
        "optimized_attention_override": override,
    }
    return model


@pytest.mark.parametrize("mask", human_prior.MASKS)
@pytest.mark.parametrize(
    "neighbor",
    [
        with_image_prompt,
        with_negative_words,
        with_more_tokens,
        with_bigger_results,
        with_override,
    ],
)
def test_the_difference_is_added_to_what_others_made(loaded, neighbor, mask):
    """At the first cross-attention: part + strength (human - plain), the part by the host itself
    without a prior, both maps of the difference explicit.
    """
    model, prior, records = loaded[0], random_prior(loaded[0]), []
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    first = min(prior.layers)
    human = mark(words, 2)[0][1][host.HUMAN]

    def positive_results(patched):
        outs = []

        def listen_before(n, context, value, extra):
            records.append((n, context, value))
            return n, context, value

        def listen(n, extra):
            if (*extra["block"], extra["block_index"]) == first:
                number = extra["cond_or_uncond"].index(0)
                inputs = records[-1]
                outs.append((n.chunk(2)[number], *(x.chunk(2)[number] for x in inputs)))
            return n

        def behind_all(executor, x, t, concat, context, control, options, **extra):
            options = with_patch(options, "attn2_patch", listen_before)
            options = with_patch(options, "attn2_output_patch", listen)
            return executor(x, t, concat, context, control, options, **extra)

        patched = patched.clone()
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "listen", behind_all)
        sample(patched, mark(words, 2), words, steps=1)
        return outs[0]

    part, n, context, value = positive_results(neighbor(model))
    unchanged, *_ = positive_results(model)
    assert float((part - unchanged).norm() / unchanged.norm()) > 0.005
    attention = host.cross_attentions(model.model.diffusion_model)[first]
    q, k, v = attention.to_q(n), attention.to_k(context), attention.to_v(value)
    heads, layer = attention.heads, prior.layers[first]
    marks = torch.zeros(1, k.shape[1], dtype=torch.bool)
    marks[0, : len(human)] = human
    trained = layer(context, k)
    if mask == human_prior.KEYS:
        trained = torch.where(marks[..., None], trained, k)
    else:  # tokens that others append are no words of the prompt
        trained, v_human, marks = trained[:, :77], v[:, :77], marks[:, :77]
    v_human = v if mask == human_prior.KEYS else v_human
    maps = human_prior.human_map(q, trained, marks, heads, mask)
    plain = human_prior.apply_map(human_prior.attention_map(q, k, heads), v)
    change = attention.to_out(human_prior.apply_map(maps, v_human)) - attention.to_out(plain)
    scale = 1.3 if neighbor is with_bigger_results else 1  # which follows on ours
    expected = part + scale * 0.4 * change
    for patched in (
        neighbor(apply(model, prior, mask_tokens=mask)),
        apply(neighbor(model), prior, mask_tokens=mask),
    ):
        actual, *_ = positive_results(patched)
        assert float((actual - expected).norm() / (0.4 * change).norm()) < 1e-4


def test_others_that_change_the_batch_are_refused(loaded):
    model, prior = loaded[0], random_prior(loaded[0])
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]

    def doubling(model):
        model = model.clone()
        model.set_model_attn2_patch(lambda *x: tuple(torch.cat((t, t)) for t in x[:3]))
        model.set_model_attn2_output_patch(lambda n, extra: n.chunk(2)[0])
        return model

    for wrong in (apply(doubling(model), prior), doubling(apply(model, prior))):
        with pytest.raises(ValueError, match="Apply Human Prior: another node .* to 4 rows"):
            sample(wrong, mark(words, 2), mark(words))


def test_others_that_merge_tokens_work_without_a_mask(loaded):
    """What is merged once and once more is merged once: the prior is between."""
    model, prior = loaded[0], random_prior(loaded[0])
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]

    def merging(model, count):
        model = model.clone()
        model.set_model_attn2_patch(lambda n, k, v, extra: (n[:, ::count], k, v))
        model.set_model_attn2_output_patch(lambda n, extra: n.repeat_interleave(count, 1))
        return model

    one = sample(merging(model, 1), mark(words, 2), words)
    samples = [
        sample(m, mark(words, 2), words)
        for m in (apply(merging(model, 2), prior), merging(apply(model, prior), 2))
    ]
    assert torch.equal(*samples) and samples[0].isfinite().all()
    assert not torch.allclose(samples[0], sample(merging(model, 2), words, words), atol=1e-2)
    assert torch.equal(
        sample(apply(merging(model, 1), prior), mark(words, 2), words),
        sample(apply(model, prior), mark(words, 2), words),
    )
    assert torch.equal(one, sample(model, words, words))
    with pytest.raises(ValueError, match="Apply Human Prior: .* merges tokens"):
        sample(apply(merging(model, 2), prior, mask=torch.ones(1, 8, 8)), mark(words, 2), words)


def test_a_lora_before_or_behind_changes_both_maps(loaded):
    """Queries, values and the way out of the human-centric attention are the changed ones too."""
    model, prior = loaded[0], random_prior(loaded[0])
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    positive, negative = mark(words, 2), mark(words)
    g = torch.Generator().manual_seed(6)
    changes = {}
    for stage, block, k in prior.layers:
        name = {"input": "input_blocks", "middle": "middle_block", "output": "output_blocks"}[stage]
        place = f"{name}.1" if stage == "middle" else f"{name}.{block}.1"
        for part in ("to_q", "to_v", "to_out.0"):
            key = f"diffusion_model.{place}.transformer_blocks.{k}.attn2.{part}.weight"
            shape = model.model.state_dict()[key].shape
            changes[key] = (0.05 * torch.randn(shape, generator=g),)

    human = positive[0][1][host.HUMAN]
    with_maps = explicit(changed(model, changes), prior, human, 0.6, prior.mask)  # not yet loaded

    def with_lora(model):
        model = model.clone()
        assert set(model.add_patches(changes, 1.0)) == set(changes)
        return model

    models = [apply(with_lora(model), prior), with_lora(apply(model, prior))]
    first, second = (sample(m, positive, negative) for m in models)
    assert torch.equal(first, second)
    assert not torch.allclose(first, sample(apply(model, prior), positive, negative), atol=1e-2)
    calls: list = []
    sample(spying(models[0], calls), positive, negative, steps=1)
    (denoised,) = positives(calls)
    ((x, sigma),) = [
        (x[None], t[None])
        for xs, ts, _, kinds in calls
        for x, t, kind in zip(xs, ts, kinds, strict=True)
        if kind == 0
    ]
    sampling = model.model.model_sampling
    noise = with_maps(
        sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), positive[0][0]
    )
    expected = sampling.calculate_denoised(sigma, noise, x)
    assert float((denoised - expected).norm() / (x - expected).norm()) < 1e-4


def changed(model, changes):
    """A copy of the UNet with the changes added."""
    unet = copy.deepcopy(model.model.diffusion_model)
    for key, (change,) in changes.items():
        unet.get_parameter(key.removeprefix("diffusion_model.")).add_(change)
    return unet


def test_two_priors_chain(loaded):
    model = loaded[0]
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    first, second = random_prior(model, 3), random_prior(model, 4)
    samples = [
        sample(m, mark(words, 2), mark(words))
        for m in (apply(model, first), apply(model, second), apply(apply(model, first), second))
    ]
    assert not any(torch.allclose(a, samples[2], atol=1e-3) for a in samples[:2])


@pytest.mark.parametrize("mode", ["exact", "layers"])
def test_every_composed_person_has_their_own_words(loaded, mode):
    """One person composed is that person alone with a ControlNet, prior included."""
    model, clip, _, net = loaded
    prior = random_prior(model)
    words = core.CLIPTextEncode().encode(clip, "a man waving")[0]
    scene, negative = core.CLIPTextEncode().encode(clip, "a park")[0], mark(words)
    body = torch.rand(18, 2, generator=torch.Generator().manual_seed(0)) * 64
    flat = torch.cat((body, torch.ones(18, 1)), 1).flatten().tolist()
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    hint = pose_drawing.draw_people(pose.read_poses(frames)[0], 64, 64)[None]
    plain = core.ControlNetApplyAdvanced().apply_controlnet(
        mark(words, 2), negative, net, hint, 1.0, 0.0, 1.0
    )
    settings = {"mode": mode, **SETTINGS}
    for order in (0, 1):
        start = apply(model, prior) if order == 0 else model
        composed, *conds = people.VitruvianComposeInstances.execute(
            start, scene, negative, (compose.Instance(mark(words, 2), 1),), frames, net, **settings
        ).result[:3]
        sampled = sample(composed if order == 0 else apply(composed, prior), *conds)
        expected = sample(apply(model, prior), *plain)
        torch.testing.assert_close(sampled, expected, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(sampled, sample(model, *plain), atol=1e-2)


def test_composed_in_one_pass_nobodys_words_are_taken_for_the_scenes(loaded):
    """The mode couple attends to the mean of all texts, of which no prompt's marks hold."""
    model, clip, _, net = loaded
    encode = core.CLIPTextEncode().encode
    scene, text = mark(encode(clip, "a park")[0], 2), encode(clip, "a man waving")[0]
    flat = [32.0, 32.0, 1.0] * 18
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    settings = {"mode": "couple", **SETTINGS}

    def sample_composed(model):
        composed = people.VitruvianComposeInstances.execute(
            model, scene, mark(text), (compose.Instance(text, 1),), frames, net, **settings
        ).result[:3]
        return sample(*composed)

    assert torch.equal(sample_composed(apply(model, random_prior(model))), sample_composed(model))


def test_composed_in_one_pass_the_order_of_the_nodes_does_not_matter(loaded):
    model, clip, _, net = loaded
    encode, prior = core.CLIPTextEncode().encode, random_prior(model)
    scene, text = encode(clip, "a park")[0], mark(encode(clip, "a man waving")[0], 2)
    flat = [32.0, 32.0, 1.0] * 18
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    settings = {"mode": "couple", **SETTINGS}

    def composed(model):
        return people.VitruvianComposeInstances.execute(
            model, scene, scene, (compose.Instance(text, 1),), frames, net, **settings
        ).result[:3]

    before = sample(*composed(apply(model, prior)))
    patched, *conds = composed(model)
    assert torch.equal(sample(apply(patched, prior), *conds), before)
    assert not torch.allclose(before, sample(patched, *conds), atol=1e-3)


def test_the_prompt_node_marks_words_and_encodes_as_the_host(loaded):
    clip = loaded[1]
    text = "a (woman:1.3) with a red top, dancing, in a park, " + "red, " * 60 + "two men"
    conditioning, words = ours.VitruvianEncodeHumanPrompt.execute(
        clip, text, "red", "two men"
    ).result
    expected = core.CLIPTextEncode().encode(clip, text)[0]
    assert torch.equal(conditioning[0][0], expected[0][0])
    human = conditioning[0][1][host.HUMAN]
    assert len(human) == expected[0][0].shape[1] > 77
    assert words.split(", ")[:3] == ["woman", "red", "dancing"] and "men" not in words.split(", ")
    assert int(human.sum()) == len(words.split(", ")) and not human[0]
    nobody = ours.VitruvianEncodeHumanPrompt.execute(clip, "a park", "", "")
    assert nobody.result[1] == "" and not nobody.result[0][0][1][host.HUMAN].any()
    assert "was found" in str(nobody.ui.as_dict())


def test_embeddings_are_no_words(loaded):
    clip = loaded[1]

    class Tokenizer:
        untokenize = staticmethod(clip.tokenizer.untokenize)

    class WithEmbedding:
        tokenizer = Tokenizer

        @staticmethod
        def tokenize(text):
            ((name, chunks),) = clip.tokenize(text).items()
            return {name: [[(torch.zeros(192), 1.0), *chunks[0][1:]]]}

        encode_from_tokens_scheduled = staticmethod(clip.encode_from_tokens_scheduled)

    _, words = host.encode_prompt(WithEmbedding, "a man", [], [])
    assert words == ["man"]


def test_what_does_not_fit_is_said(loaded, family, tmp_path):
    model = loaded[0]
    words = core.CLIPTextEncode().encode(loaded[1], "a man")[0]
    with pytest.raises(ValueError, match="no positive prompt says which .* Encode Human Prompt"):
        sample(apply(model, random_prior(model)), words, words)
    with pytest.raises(ValueError, match="random was trained for another model"):
        apply(family[0], random_prior(model))
    with pytest.raises(ValueError, match="'end_percent' .* must be greater"):
        apply(model, random_prior(model), start_percent=0.5, end_percent=0.5)
    file = tmp_path / "odd.safetensors"
    weights.save(
        file, {"human_prior.input_1": torch.zeros(1)}, {"method": "human_prior", "version": 1}
    )
    with pytest.raises(ValueError, match=r"odd.safetensors: expected the layers"):
        host.load(file)


def test_beside_a_controlnet(loaded):
    """Against the explicit maps in the same host with the same ControlNet."""
    model, clip, vae, net = loaded
    prior = random_prior(model)
    positive = ours.VitruvianEncodeHumanPrompt.execute(clip, "a man waving", "", "").result[0]
    hint = torch.rand(1, 8 * CELLS, 8 * CELLS, 3, generator=torch.Generator().manual_seed(4))
    apply_net = core.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply_net(positive, positive, net, hint, 1.0, 0.0, 1.0, vae=vae)
    sampled = sample(apply(model, prior), positive, negative, cfg=1.0)
    reference = model.clone()
    unet = explicit(
        model.model.diffusion_model, prior, positive[0][1][host.HUMAN], 0.6, human_prior.BEFORE
    )
    reference.add_object_patch("diffusion_model", unet)
    torch.testing.assert_close(
        sampled, sample(reference, positive, negative, cfg=1.0), atol=1e-4, rtol=1e-4
    )
    assert not torch.equal(sampled, sample(model, positive, negative, cfg=1.0))


@pytest.mark.parametrize("mask", human_prior.MASKS)
def test_the_same_numbers_in_trainer_and_host(loaded, tmp_path, mask):
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    torch.manual_seed(5)
    denoiser = training.PriorDenoiser(
        checkpoint.unet, checkpoint.text_encoder, gamma=0.4, mask=mask
    ).eval()
    for processor in denoiser.attentions.values():
        for p in processor.layer.parameters():
            p.data = (0.2 * torch.randn(p.shape)).half().float()  # as the file holds them
    training.save_prior(denoiser, tmp_path / "prior.safetensors", "mini")
    prior, calls = host.load(tmp_path / "prior.safetensors"), []
    tokenizer = WordTokenizer.from_file(token_ids=checkpoint.token_ids)
    text = "a man with tan skin wearing a red top, waving, in a park"
    conditioning = ours.VitruvianEncodeHumanPrompt.execute(loaded[1], text, "", "").result[0]
    patched = apply(loaded[0], prior, gamma=-1.0, mask_tokens=ours.AS_TRAINED)
    sample(spying(patched, calls), conditioning, mark(conditioning), steps=1, size=(13, 9))
    ids = tokenizer([text])
    human = training.human_tokens(word_pieces(tokenizer.words), ids)
    assert torch.equal(human[0], conditioning[0][1][host.HUMAN])
    ((x, sigma, denoised),) = [
        (x[None], sigma[None], out[None])
        for xs, sigmas, outs, kinds in calls
        for x, sigma, out, kind in zip(xs, sigmas, outs, kinds, strict=True)
        if kind == 0
    ]
    sampling = loaded[0].model.model_sampling
    noise, _ = denoiser(
        sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), ids, human
    )
    expected = sampling.calculate_denoised(sigma, noise, x)
    assert float((denoised - expected).norm() / (x - expected).norm()) < 1e-4


def test_a_file_gives_back_its_layers(loaded, tmp_path):
    prior = random_prior(loaded[0])
    tensors = {
        f"human_prior.{'_'.join(map(str, place))}.{name}": tensor
        for place, layer in prior.layers.items()
        for name, tensor in layer.state_dict().items()
    }
    facts = {
        "method": "human_prior",
        "version": 1,
        "base": "mini",
        "gamma": 0.7,
        "mask": human_prior.AFTER,
    }
    weights.save(tmp_path / "p.safetensors", tensors, facts)
    loaded_prior = host.load(tmp_path / "p.safetensors")
    assert (loaded_prior.gamma, loaded_prior.mask, loaded_prior.name) == (
        0.7,
        human_prior.AFTER,
        "p.safetensors",
    )
    for place, layer in prior.layers.items():
        for name, tensor in layer.state_dict().items():
            assert torch.equal(loaded_prior.layers[place].state_dict()[name], tensor)
