"""The alignment of parts on the host: against a changed copy of the UNet, beside other patches,
and misuse.
"""

import copy
from pathlib import Path

import folder_paths
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host import appearance as host
from vitruvian.host import human_prior
from vitruvian.host.registration import register
from vitruvian.host.sampling import Window
from vitruvian.lab.training import convert, preview
from vitruvian.lab.training.appearance_unet import AppearanceDenoiser, start_alignment
from vitruvian.models import pose, pose_drawing, semantic_map
from vitruvian.models.appearance import Alignment, PartFeatures, Sizes
from vitruvian.models.compose import Instance
from vitruvian.models.memory import Memory, Part
from vitruvian.nodes import appearance as ours
from vitruvian.nodes import compose as people

import nodes as core

register()
CELLS = 8
SETTINGS = {"strength": 1.0, "map_strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
SIZES = Sizes(features=10, width=16, tokens=2, heads=2, hidden=6)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def trained(alignment, seed=3):
    g = torch.Generator().manual_seed(seed)
    for p in alignment.parameters():
        p.data = torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return host.Appearance(alignment.requires_grad_(False).eval(), "random")


def random_appearance(model, seed=3):
    """A layer before the first and the last output block and one between."""
    unet = model.model.diffusion_model
    last = len(unet.output_blocks) - 1
    places = {0, last // 2, last}
    return trained(
        Alignment({k: host.channels_before(unet, k) for k in sorted(places)}, SIZES), seed
    )


def parts_of(*classes, width=10, seed=0):
    g = torch.Generator().manual_seed(seed)
    parts = []
    for part in classes:
        feature = torch.nn.functional.normalize(torch.randn(width, generator=g), dim=0)
        empty = torch.zeros(0)
        parts.append(
            Part(part, semantic_map.CLASSES[part], 1.0, feature, feature, empty.long(), empty)
        )
    return tuple(parts)


DRESSED = parts_of(semantic_map.TOP, semantic_map.PANTS)


def random_map(batch=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(24, (batch, 40, 56), generator=g).byte()


def apply(model, appearance, parts=DRESSED, labels=None, **changes):
    labels = random_map() if labels is None else labels
    (patched,) = ours.VitruvianApplyAppearance.execute(
        model, appearance, parts, labels, **{**SETTINGS, **changes}
    ).result
    return patched


def encode(clip, text):
    return core.CLIPTextEncode().encode(clip, text)[0]


def sample(model, positive, negative, *, cfg=4.0, steps=2, batch=1, size=(CELLS, CELLS), **options):
    latent = {"samples": torch.zeros(batch, 4, *size)}
    return core.common_ksampler(
        model, 7, steps, cfg, options.get("sampler", "euler"), "normal", positive, negative, latent
    )[0]["samples"]


def spying(model, calls):
    def spy(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        calls.append((x, t, out, args[3]["cond_or_uncond"]))
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    return model


def with_layers(unet, appearance, part_features):
    """A copy of the UNet whose output blocks get changed input."""
    unet, alignment = copy.deepcopy(unet), appearance.alignment
    tokens = alignment.tokens(part_features.features, part_features.has_feature)
    for place, channels in alignment.channels.items():
        layer = alignment.at(place)

        def before(block, inputs, layer=layer, channels=channels):
            h, skip = inputs[0][:, :channels], inputs[0][:, channels:]
            added = layer(h, layer.align(tokens, part_features, tuple(h.shape[-2:])))
            return torch.cat((h + added, skip), 1), *inputs[1:]

        unet.output_blocks[place][0].register_forward_pre_hook(before)
    return unet


def test_equals_a_changed_unet_for_every_family(family, random_text):
    model, calls = family[0], []
    positive, negative = random_text(model, 1), random_text(model, 2)
    appearance, base, labels = random_appearance(model), model.model, random_map()
    sample(spying(apply(model, appearance), calls), positive, negative, steps=1)
    changed = with_layers(
        base.diffusion_model, appearance, host.collect_features(DRESSED, labels, SIZES.features)
    )
    rows = [row for *parts, kinds in calls for row in zip(*parts, kinds, strict=True)]
    assert sorted(kind for *_, kind in rows) == [0, 1]
    sampling = base.model_sampling
    for x, sigma, denoised, kind in rows:
        x, sigma = x[None], sigma[None]
        text, entry = (positive, negative)[kind][0]
        unet = changed if kind == 0 else base.diffusion_model
        noise = unet(
            sampling.calculate_input(sigma, x),
            sampling.timestep(sigma).float(),
            text,
            y=base.encode_adm(device="cpu", **entry),
        )
        expected = sampling.calculate_denoised(sigma, noise, x)
        assert float((denoised - expected[0]).norm() / (x - expected).norm()) < 1e-4


def test_nothing_to_do_is_the_base_bit_for_bit(loaded):
    model, appearance = loaded[0], random_appearance(loaded[0])
    positive, negative = encode(loaded[1], "a man"), encode(loaded[1], "")
    plain = sample(model, positive, negative)
    for parts, changes in (
        (DRESSED, {"strength": 0.0, "map_strength": 0.0}),
        ((), {"map_strength": 0.0}),
        (DRESSED, {"start_percent": 0.3, "end_percent": 0.4}),  # between the two steps
        (DRESSED, {"mask": torch.zeros(1, 64, 64)}),
    ):
        assert torch.equal(
            sample(apply(model, appearance, parts, **changes), positive, negative), plain
        )
    untrained = host.Appearance(start_alignment_of(model), "untrained")
    assert torch.equal(sample(apply(model, untrained), positive, negative), plain)
    assert not torch.allclose(
        sample(apply(model, appearance), positive, negative), plain, atol=1e-2
    )
    assert torch.equal(sample(model, positive, negative), plain)  # the model itself is as it was


def start_alignment_of(model):
    unet = model.model.diffusion_model
    return Alignment({0: host.channels_before(unet, 0)}, SIZES).requires_grad_(False).eval()


@pytest.mark.parametrize(
    "options",
    [
        {"cfg": 1.0},
        {"batch": 2},
        {"size": (7, 11)},
        {"sampler": "dpmpp_2m_sde"},
    ],
)
def test_sizes_batches_and_samplers_repeat(loaded, options):
    patched = apply(loaded[0], random_appearance(loaded[0]))
    positive, negative = encode(loaded[1], "a man"), encode(loaded[1], "")
    first = sample(patched, positive, negative, **options)
    assert first.isfinite().all()
    assert torch.equal(first, sample(patched.clone(), positive, negative, **options))


def test_each_image_of_a_batch_has_its_own_map(loaded):
    """Same noise in both rows: what differs is the map."""
    model, appearance = loaded[0], random_appearance(loaded[0])
    positive, negative = encode(loaded[1], "a man"), encode(loaded[1], "")
    maps = torch.cat((random_map(seed=0), random_map(seed=1)))

    def positive_rows(labels):
        calls: list = []
        noise = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(1))
        latent = {"samples": noise.repeat(2, 1, 1, 1), "batch_index": [0, 0]}
        spied = spying(apply(model, appearance, labels=labels), calls)
        core.common_ksampler(spied, 7, 1, 4.0, "euler", "normal", positive, negative, latent)
        (out,) = [
            out[k * 2 : k * 2 + 2]
            for *_, out, kinds in calls
            for k, kind in enumerate(kinds)
            if kind == 0
        ]
        return out

    pair, first, second = (positive_rows(m) for m in (maps, maps[:1], maps[1:]))
    torch.testing.assert_close(pair[0], first[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pair[1], second[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(pair[0], pair[1], atol=1e-3)


@pytest.mark.parametrize("kinds", [(0, 1), (1, 0), (0,), (1,), (1, 0, 0)])
def test_only_positive_rows_change_whatever_their_order(loaded, kinds):
    model, appearance = loaded[0], random_appearance(loaded[0])
    (patch,) = apply(model, appearance).model_options["transformer_options"]["patches"][
        "output_block_patch"
    ]
    place = next(iter(appearance.alignment.channels))
    channels = appearance.alignment.channels[place]
    h = torch.randn(2, channels, 4, 4).repeat(len(kinds), 1, 1, 1)
    slot = patch.__closure__[[*patch.__code__.co_freevars].index("slot")].cell_contents
    options = {
        slot: host.Plan(Window(1.0, 0.0), (8, 8), {}),
        "block": ("output", place),
        "cond_or_uncond": list(kinds),
    }
    skip = torch.randn(1)
    changed, same = patch(h, skip, options)
    assert same is skip
    rows = (changed - h).view(len(kinds), -1).abs().amax(1)
    assert [bool(row) for row in rows] == [kind == 0 for kind in kinds]
    assert torch.equal(patch(h, skip, {**options, "block": ("output", 1)})[0], h)


def test_a_mask_says_where(loaded):
    model, appearance = loaded[0], random_appearance(loaded[0])
    place = max(appearance.alignment.channels)
    only = Alignment({place: appearance.alignment.channels[place]}, SIZES)
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1

    def features_at_place(model):
        features = []

        def listen(h, skip, options):
            if options["block"] == ("output", place):
                features.append(h[options["cond_or_uncond"].index(0)])
            return h, skip

        model = model.clone()
        model.set_model_output_block_patch(listen)
        sample(model, encode(loaded[1], "a man"), encode(loaded[1], ""), steps=1)
        return features[0]

    alone = trained(only)
    plain, everywhere = features_at_place(model), features_at_place(apply(model, alone))
    masked = features_at_place(apply(model, alone, mask=left))
    half = plain.shape[-1] // 2
    assert torch.equal(masked[..., half:], plain[..., half:])
    torch.testing.assert_close(masked[..., :half], everywhere[..., :half])
    assert not torch.allclose(everywhere[..., half:], plain[..., half:], atol=1e-3)


def test_two_people_and_another_packs_patch_chain(loaded):
    model = loaded[0]
    positive, negative = encode(loaded[1], "a man"), encode(loaded[1], "")
    one, other = random_appearance(model, 3), random_appearance(model, 4)

    def foreign(model):
        model = model.clone()
        model.set_model_output_block_patch(lambda h, skip, options: (h * 1.1, skip))
        return model

    latents = [
        sample(m, positive, negative)
        for m in (
            apply(model, one),
            apply(model, other),
            apply(apply(model, one), other),
            foreign(apply(model, one)),
            apply(foreign(model), one),
        )
    ]
    assert all(x.isfinite().all() for x in latents)
    for a in range(5):
        for b in range(a):
            assert not torch.allclose(latents[a], latents[b], atol=1e-3)


@pytest.mark.parametrize("mode", ["exact", "layers", "couple"])
def test_one_composed_person_is_that_person_alone(loaded, mode):
    model, clip, _ = loaded
    net = core.ControlNetLoader().load_controlnet("vitruvian_mini_openpose.safetensors")[0]
    appearance, negative = random_appearance(model), encode(clip, "")
    words, scene = encode(clip, "a man waving"), encode(clip, "a park")
    flat = [32.0, 32.0, 1.0] * 18
    frames = [{"people": [{"pose_keypoints_2d": flat}], "canvas_width": 64, "canvas_height": 64}]
    hint = pose_drawing.draw_people(pose.read_poses(frames)[0], 64, 64)[None]
    plain = core.ControlNetApplyAdvanced().apply_controlnet(
        words, negative, net, hint, 1.0, 0.0, 1.0
    )
    settings = {
        "mode": mode,
        "strength": 1.0,
        "harmony": 0.5,
        "dilation": 0.06,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "background_prompt": people.MEAN,
        "shared_negative": False,
    }
    latents = []
    for order in (0, 1):
        start = apply(model, appearance) if order == 0 else model
        composed, *conds = people.VitruvianComposeInstances.execute(
            start, scene, negative, (Instance(words, 1),), frames, net, **settings
        ).result[:3]
        latents.append(sample(composed if order == 0 else apply(composed, appearance), *conds))
    torch.testing.assert_close(latents[0], latents[1], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(latents[0], sample(model, *plain), atol=1e-2)
    if mode != "couple":  # whose one pass also sees the scene's own prompt
        expected = sample(apply(model, appearance), *plain)
        torch.testing.assert_close(latents[0], expected, atol=1e-5, rtol=1e-4)


def test_a_human_prior_stays_at_work_beside_it(loaded):
    model, clip, _ = loaded
    file = folder_paths.get_full_path("vitruvian", "vitruvian_mini_human_prior.safetensors")
    prior = human_prior.load(Path(file))
    strengths = {stage: 1.0 for stage in human_prior.STAGES}
    settings = human_prior.Settings(0.5, prior.mask, strengths, 0.0, 1.0)
    positive, _ = human_prior.encode_prompt(clip, "a man waving", (), ())
    negative, appearance = encode(clip, ""), random_appearance(model)
    combined = [
        sample(m, positive, negative)
        for m in (
            apply(human_prior.apply(model, prior, settings), appearance),
            human_prior.apply(apply(model, appearance), prior, settings),
        )
    ]
    assert torch.equal(*combined)
    for one in (apply(model, appearance), human_prior.apply(model, prior, settings)):
        assert not torch.allclose(combined[0], sample(one, positive, negative), atol=1e-3)


def test_trainer_and_host_make_the_same_noise(loaded):
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    appearance = trained(start_alignment(checkpoint.unet, SIZES))
    model, calls = loaded[0], []
    sample(
        spying(apply(model, appearance), calls),
        encode(loaded[1], "a man"),
        encode(loaded[1], ""),
        steps=1,
    )
    ((x, sigma, denoised),) = [
        (x[k : k + 1], t[k : k + 1], out[k : k + 1])
        for x, t, out, kinds in calls
        for k, kind in enumerate(kinds)
        if kind == 0
    ]
    sampling = model.model.model_sampling
    trainer = AppearanceDenoiser(checkpoint.unet, checkpoint.text_encoder, appearance.alignment)
    part_features = host.collect_features(DRESSED, random_map(), SIZES.features)
    text = encode(loaded[1], "a man")[0][0]
    with trainer.with_appearance(PartFeatures(*part_features), x.shape[2:]):
        noise = trainer.denoiser.unet(
            sampling.calculate_input(sigma, x), sampling.timestep(sigma).float(), text
        ).sample
    expected = sampling.calculate_denoised(sigma, noise, x)
    assert float((denoised - expected).norm() / (x - expected).norm()) < 1e-4


def test_misuse_says_what_to_do(loaded):
    model, appearance = loaded[0], random_appearance(loaded[0])
    positive, negative = encode(loaded[1], "a man"), encode(loaded[1], "")
    with pytest.raises(ValueError, match="Apply Appearance: .* features, random was trained with"):
        apply(model, appearance, parts_of(semantic_map.TOP, width=7))
    with pytest.raises(ValueError, match="Apply Appearance: random was trained for another model"):
        apply(model, trained(Alignment({0: 32}, SIZES)))
    with pytest.raises(ValueError, match="no such block"):
        apply(model, trained(Alignment({99: 32}, SIZES)))
    with pytest.raises(ValueError, match="'end_percent' .* must be greater"):
        apply(model, appearance, start_percent=0.5, end_percent=0.5)
    patched = apply(model, appearance, labels=random_map(3))
    with pytest.raises(ValueError, match="'semantic_map' has 3 items, but 2 latents"):
        sample(patched, positive, negative, batch=2)
    area = core.ConditioningSetArea().append(positive, 32, 32, 0, 0, 1.0)[0]
    with pytest.raises(ValueError, match="Apply Appearance: .* area"):
        sample(apply(model, appearance), area, negative)


def test_a_transformer_is_refused_in_the_nodes_own_name(loaded, transformer):
    with pytest.raises(ValueError, match="^Apply Appearance.* SD1.5, SD2.x and SDXL.*Transformer"):
        apply(transformer, random_appearance(loaded[0]))


def test_instances_from_parts_have_words_and_retrieved_features(loaded):
    clip, labels = loaded[1], torch.zeros(1, 16, 16, dtype=torch.uint8)
    labels[:, 4:8, 4:12] = semantic_map.TOP
    g = torch.Generator().manual_seed(0)
    memory = Memory({}, "none", torch.randn(10, 192, generator=g))

    def instances(tokens, parts=DRESSED):
        return ours.VitruvianInstancesFromParts.execute(parts, labels, clip, memory, tokens).result[
            0
        ]

    (plain,), (with_features,) = instances(0), instances(3)  # the map shows no trousers
    assert torch.equal(plain.mask, (labels == semantic_map.TOP).float()) and plain.person == 0
    words, retrieved = plain.conditioning[0][0], with_features.conditioning[0][0]
    assert torch.equal(words, encode(clip, "top")[0][0])
    differing = (words != retrieved).any(-1)[0].nonzero()[:, 0].tolist()
    assert differing == [3, 4, 5]  # behind begin, word and end
    token = retrieved[0, 3]
    back = torch.nn.functional.normalize(memory.projection @ token, dim=0)
    torch.testing.assert_close(back, DRESSED[0].feature, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(token.norm(), words[0, 2].norm())
    with pytest.raises(ValueError, match="Instances from Parts: none of the parts is on the map"):
        instances(3, parts_of(semantic_map.BAG))
