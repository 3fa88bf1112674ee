"""The hand generator: the trainer's network and the host's give the same numbers."""

import copy

import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host import hand_generator as host
from vitruvian.host.registration import register
from vitruvian.lab.training import convert, hands, preview
from vitruvian.models import pose, weights
from vitruvian.models.hand_generator import HandGenerator, LoadedHandGenerator, heat_maps
from vitruvian.nodes.hand_generator import VitruvianApplyHandGenerator, VitruvianPredictHandMasks

import nodes as core

register()
SIZE = 96


@pytest.fixture(scope="module")
def trained(mini_weights, tmp_path_factory):
    """A generator with random changes, as the trainer has it, and its file."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    torch.manual_seed(0)
    model = hands.HandDenoiser(checkpoint.unet, checkpoint.text_encoder).requires_grad_(False)
    for name, p in model.named_parameters():
        if name.endswith(".up"):
            p.normal_(std=0.02)
    model.generator.first.weight.normal_(std=0.1)
    path = tmp_path_factory.mktemp("hands") / "hands.safetensors"
    hands.save_hand_generator(model, path, "mini")
    return model.eval(), path


def frames():
    g = torch.Generator().manual_seed(1)
    people = []
    for side in ("left", "right"):
        points = torch.cat((torch.rand(21, 2, generator=g) * SIZE, torch.ones(21, 1)), 1)
        people.append(
            {
                "people": [{f"hand_{side}_keypoints_2d": points.flatten().tolist()}],
                "canvas_width": SIZE,
                "canvas_height": SIZE,
            }
        )
    return people


def heat_of(person):
    cells = SIZE // 8
    return heat_maps(person.left_hand[0], person.right_hand[0], 8, cells, cells)


def predict(model, x, sigma, context):
    """The model's denoised latents for one positive and one negative chunk of two images."""
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [1, 0]}
    return model.model.apply_model(
        x.repeat(2, 1, 1, 1), sigma.repeat(2), c_crossattn=context, transformer_options=options
    )


def test_the_same_numbers_in_trainer_and_host(loaded, trained):
    trainer_model, path = trained
    people = [pose.read_frame(frame) for frame in frames()]
    with torch.inference_mode():
        model = host.apply(loaded[0], host.load(path), people, 1.0)
        model.patch_model()
        try:
            sampling = model.model.model_sampling
            time = torch.tensor([300, 300])
            sigma = sampling.sigma(time)
            g = torch.Generator().manual_seed(2)
            cells = SIZE // 8
            x = torch.randn(2, 4, cells, cells, generator=g) * (1 + sigma[0] ** 2) ** 0.5
            context = torch.randn(4, 77, 192, generator=g)
            denoised = predict(model, x, sigma, context)
        finally:
            model.unpatch_model()
        heat = torch.stack([heat_of(p) for p in people])
        scaled = sampling.calculate_input(sigma, x)
        with trainer_model.with_hint(trainer_model.generator(heat)):
            noise = trainer_model.unet(scaled.repeat(2, 1, 1, 1), time.repeat(2), context).sample
        expected = sampling.calculate_denoised(sigma.repeat(2), noise, x.repeat(2, 1, 1, 1))
    torch.testing.assert_close(denoised, expected, atol=2e-3, rtol=2e-3)  # the file is float16


def test_strength_0_is_the_model_as_it_was_and_masks_have_the_images_size(loaded, trained):
    with torch.inference_mode():
        generator = host.load(trained[1])
        words = core.CLIPTextEncode().encode(loaded[1], "a hand")[0]
        nothing = core.CLIPTextEncode().encode(loaded[1], "")[0]
        latent = {"samples": torch.zeros(2, 4, 13, 12)}

        def sample(model):
            return core.common_ksampler(
                model, 1, 2, 4.0, "euler", "normal", words, nothing, latent
            )[0]

        (model,) = VitruvianApplyHandGenerator.execute(loaded[0], generator, frames(), 1.0).result
        (off,) = VitruvianApplyHandGenerator.execute(loaded[0], generator, frames(), 0.0).result
        plain, hands = sample(loaded[0]), sample(model)
        assert torch.equal(sample(off)["samples"], plain["samples"])
        assert not torch.allclose(hands["samples"], plain["samples"], atol=0.1)
        assert torch.equal(sample(model)["samples"], hands["samples"])
        (masks,) = VitruvianPredictHandMasks.execute(model, generator, words, hands).result
        with pytest.raises(ValueError, match="does not come from Apply Hand Generator"):
            VitruvianPredictHandMasks.execute(loaded[0], generator, words, hands)
    assert masks.shape == (2, 104, 96) and set(masks.unique().tolist()) <= {0.0, 1.0}


def test_masks_are_read_for_the_prompt_that_acts_at_the_end(loaded, trained):
    """Whatever the limits of its entries, and whatever guidance another node adds."""
    import comfy_extras.nodes_pag as pag

    with torch.inference_mode():
        generator = host.load(trained[1])
        words, other = (core.CLIPTextEncode().encode(loaded[1], t)[0] for t in ("a hand", "a dog"))
        samples = torch.randn(2, 4, 12, 12, generator=torch.Generator().manual_seed(3))
        (model,) = VitruvianApplyHandGenerator.execute(loaded[0], generator, frames(), 1.0).result

        def limited(text, **limits):
            return [[t, {**e, **limits}] for t, e in text]

        def predict(positive, model=model):
            return host.predict_masks(model, generator, positive, samples)

        expected = predict(words)
        assert not torch.equal(expected, predict(other))
        for positive in (
            limited(words, start_percent=0.5),
            [*limited(other, end_percent=0.5), *limited(words, start_percent=0.5)],
            limited(words, mask=torch.zeros(1, 8, 8), mask_strength=1.0),
        ):
            assert torch.equal(predict(positive), expected)
        node = pag.PerturbedAttentionGuidance
        guided = (
            node.execute(model, 3.0).result
            if hasattr(node, "execute")
            else node().patch(model, 3.0)
        )
        assert torch.equal(predict(words, guided[0]), expected)
        guided = model.clone()
        guided.model_options["disable_cfg1_optimization"] = True
        torch.testing.assert_close(predict(words, guided), expected, atol=1e-4, rtol=1e-4)
        for wrong, reason in (
            ([*words, *other], "'positive' holds 2 prompts at once"),
            (limited(words, end_percent=0.5), "no prompt of 'positive' acts when 100% of the"),
            (limited(words, area=(4, 4, 0, 0)), "has an area"),
        ):
            with pytest.raises(ValueError, match=f"^Predict Hand Masks: .*{reason}"):
                VitruvianPredictHandMasks.execute(model, generator, wrong, {"samples": samples})


def test_a_call_of_another_pack_in_the_middle_does_not_count_for_the_masks(loaded, trained):
    """Its tokens reach the same layers before ours do."""
    with torch.inference_mode():
        generator = host.load(trained[1])
        (model,) = VitruvianApplyHandGenerator.execute(
            loaded[0], generator, frames()[:1], 1.0
        ).result
        words = core.CLIPTextEncode().encode(loaded[1], "a hand")[0]
        samples = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(3))
        expected = host.predict_masks(model, generator, words, samples)

        def call_first(executor, x, t, *args, **kwargs):
            executor.class_obj.diffusion_model(
                torch.randn(x.shape, generator=torch.Generator().manual_seed(4)),
                t,
                context=words[0][0],
            )
            return executor(x, t, *args, **kwargs)

        disturbed = model.clone()
        disturbed.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "another pack", call_first)
        assert torch.equal(host.predict_masks(disturbed, generator, words, samples), expected)


def test_an_image_that_is_sampled_in_parts_is_refused(loaded, trained):
    """Every part would get the entire hand."""
    with torch.inference_mode():
        generator = host.load(trained[1])
        (model,) = VitruvianApplyHandGenerator.execute(
            loaded[0], generator, frames()[:1], 1.0
        ).result
        words, nothing = (core.CLIPTextEncode().encode(loaded[1], t)[0] for t in ("a hand", ""))
        area = core.ConditioningSetArea().append(words, 32, 32, 0, 0, 1.0)[0]
        latent = {"samples": torch.zeros(1, 4, 12, 12)}
        with pytest.raises(ValueError, match="^Apply Hand Generator: .* sampled in parts"):
            core.common_ksampler(model, 1, 1, 4.0, "euler", "normal", area, nothing, latent)


def test_a_generator_for_another_model_is_refused(loaded, trained):
    generator = host.load(trained[1])
    wide = generator._replace(network=type(generator.network)(320))
    with pytest.raises(ValueError, match="320 channels, but the model has 64"):
        VitruvianApplyHandGenerator.execute(loaded[0], wide, frames(), 1.0)
    with pytest.raises(ValueError, match="expected weights of 'hands'"):
        host.load(preview.CHECKPOINT)


def test_a_transformer_is_refused_in_the_nodes_own_name(transformer, trained):
    generator = host.load(trained[1])
    with pytest.raises(ValueError, match="^Apply Hand Generator.* SD2.x and SDXL.*Transformer"):
        VitruvianApplyHandGenerator.execute(transformer, generator, frames(), 1.0)


def test_a_file_without_its_layers_is_refused(tmp_path):
    file = tmp_path / "old.safetensors"
    weights.save(file, {"hand.hint.bias": torch.zeros(64)}, {"method": "hands", "version": 1})
    with pytest.raises(ValueError, match="old.safetensors: expected the layers"):
        host.load(file)


def random_generator(model):
    """Of the model's width, with a low-rank change at its first and at a middle layer."""
    unet = model.model.diffusion_model
    g = torch.Generator().manual_seed(4)
    network = HandGenerator(unet.input_blocks[0][0].out_channels).requires_grad_(False)
    network.first.weight.copy_(0.3 * torch.randn(network.first.weight.shape, generator=g))
    low_rank = {}
    for name in ("input_blocks.0.0", "middle_block.1.transformer_blocks.0.attn2.to_k"):
        out, *inner = unet.get_submodule(name).weight.shape
        sizes = {"lora_up": (out, 2, *[1] * (len(inner) - 1)), "lora_down": (2, *inner)}
        for part, shape in sizes.items():
            tensor = 0.3 * torch.randn(shape, generator=g)
            low_rank[f"diffusion_model.{name}.{part}.weight"] = tensor
    return LoadedHandGenerator(network, low_rank, "random")


def test_equals_a_changed_network_for_every_family(family, random_text):
    model, calls = family[0], []
    positive, negative = random_text(model, 1), random_text(model, 2)
    loaded = random_generator(model)

    def spy(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        calls.append((x, t, out, args[3]["cond_or_uncond"]))
        return out

    base = model.model
    with torch.inference_mode():
        reference = with_changes(
            base.diffusion_model, loaded, 0.5
        )  # before the host changes the weights
        (generating,) = VitruvianApplyHandGenerator.execute(model, loaded, frames()[:1], 0.5).result
        spied = generating.clone()
        spied.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
        latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
        sampled = core.common_ksampler(
            spied, 3, 1, 4.0, "euler", "normal", positive, negative, latent
        )[0]
        (person,) = pose.read_poses(frames()[:1])
        hint = 0.5 * loaded.network(heat_of(person)[None]).first
        sampling = base.model_sampling
        rows = [row for *parts, kinds in calls for row in zip(*parts, kinds, strict=True)]
        assert sorted(kind for *_, kind in rows) == [0, 1]
        for x, sigma, denoised, kind in rows:
            x, sigma = x[None], sigma[None]
            text, entry = (positive, negative)[kind][0]
            hook = reference.input_blocks[0][0].register_forward_hook(  # the block is never called
                lambda _, __, h, kind=kind: h + hint if kind == 0 else h
            )
            noise = reference(
                sampling.calculate_input(sigma, x),
                sampling.timestep(sigma).float(),
                text,
                y=base.encode_adm(device="cpu", **entry),
            )
            hook.remove()
            expected = sampling.calculate_denoised(sigma, noise, x)
            error = (denoised - expected[0]).norm() / (x - expected).norm()
            assert float(error) < 1e-4
        (masks,) = VitruvianPredictHandMasks.execute(generating, loaded, positive, sampled).result
    assert masks.shape == (1, SIZE, SIZE)


def with_changes(unet, loaded, strength):
    """A copy with W + strength * up @ down."""
    unet = copy.deepcopy(unet)
    for key, up in loaded.low_rank.items():
        if ".lora_up." in key:
            down = loaded.low_rank[key.replace("lora_up", "lora_down")]
            name = key.removeprefix("diffusion_model.").removesuffix(".lora_up.weight")
            weight = unet.get_submodule(name).weight
            weight += strength * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    return unet
