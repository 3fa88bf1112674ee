"""Joint denoising on the host: against diffusers, the base, and what the host does to models."""

import pytest
import torch
from vitruvian.host import structure_family, structure_latent, structure_unet
from vitruvian.host.registration import register
from vitruvian.lab.recipes import structure as recipe
from vitruvian.lab.training import convert, preview
from vitruvian.lab.training import structure as training
from vitruvian.models import structure

import nodes as core

register()
CELLS = 8


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def mini(mini_weights):
    """The mini UNet in diffusers."""
    return convert.load_checkpoint(preview.CHECKPOINT).unet


def random_joint(unet, seed=1, **options):
    """A joint network whose branches differ from the base and from each other."""
    joint = training.start_joint(unet, **options).eval()
    g = torch.Generator().manual_seed(seed)
    for p in joint.parameters():
        p.data += 0.02 * torch.randn(p.shape, generator=g)
    return joint


def written(joint, folder, **options):
    path = folder / "joint.safetensors"
    training.save_structure(joint, path, "mini", dtype=torch.float32, **options)
    return path


def predict(model, x, t, text, pose=None, sizes=None):
    """What the host's network gives, [B, 12, h, w]."""
    net = model.model.diffusion_model
    pose = torch.zeros(len(x), 4, *x.shape[2:]) if pose is None else pose
    sizes = torch.zeros(len(x), 4) if sizes is None else sizes
    return net(torch.cat((x, pose), 1), t, text, y=structure.size_embedding(sizes))


def inputs(batch=2, size=(CELLS, CELLS), seed=2):
    g = torch.Generator().manual_seed(seed)
    x, pose = (torch.randn(batch, n, *size, generator=g) for n in (12, 4))
    text = torch.randn(batch, 77, 192, generator=g)
    return x, torch.tensor([3.0, 700.0][:batch]), text, pose, torch.tensor([[64, 96, 8, 0]] * batch)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"experts": 1},
        {"experts": 4},
        {"fusion": structure.SUM},
        {"fusion": structure.LEARNED},
        {"fusion": structure.OFF},
        {"fusion": structure.PAIR},
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_the_host_gives_what_diffusers_gives(mini, tmp_path, options, size):
    joint = random_joint(mini, **options)
    x, t, text, pose, sizes = inputs(size=size)
    expected = joint(x, t, text, pose, sizes)
    predicted = predict(structure_family.load(written(joint, tmp_path)), x, t, text, pose, sizes)
    torch.testing.assert_close(predicted, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture
def model(mini, tmp_path):
    """MODEL of a random joint network."""
    return structure_family.load(written(random_joint(mini), tmp_path))


def text(width=192, seed=3):
    g = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 77, width, generator=g), {}]]


def sample(model, positive=None, negative=None, *, cfg=3.0, steps=2, batch=1, size=None, **options):
    latent = options.get("latent") or {"samples": torch.zeros(batch, 12, *(size or (CELLS, CELLS)))}
    return core.common_ksampler(
        model,
        7,
        steps,
        cfg,
        options.get("sampler", "euler"),
        options.get("scheduler", "normal"),
        positive or text(),
        negative or text(seed=4),
        latent,
        denoise=options.get("denoise", 1.0),
    )[0]["samples"]


def pose(batch=1, size=(CELLS, CELLS), seed=5):
    return torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(seed))


def test_the_network_that_ships_is_as_deep_as_its_recipe_says(mini, mini_weights):
    joint = training.load_structure(mini, recipe.STRUCTURE, "mini")
    assert joint.experts == recipe.CONFIG.experts == 4 and joint.fusion == recipe.CONFIG.fusion
    host_model = structure_family.load(recipe.STRUCTURE)
    x, t, words, pose, sizes = inputs(size=(24, 24))
    expected = joint.eval()(x, t, words, pose, sizes)
    torch.testing.assert_close(
        predict(host_model, x, t, words, pose, sizes), expected, atol=1e-3, rtol=1e-3
    )
    latents = sample(host_model, size=(24, 24))
    assert latents.shape == (1, 12, 24, 24) and latents.isfinite().all()


def test_three_copies_are_the_base(mini, loaded, tmp_path):
    joint = structure_family.load(written(training.start_joint(mini), tmp_path))
    x, t, words, pose, sizes = inputs()
    base = loaded[0].model.diffusion_model(x[:, :4], t, words)
    for part in predict(joint, x[:, :4].repeat(1, 3, 1, 1), t, words, pose, sizes).chunk(3, 1):
        torch.testing.assert_close(part, base, atol=1e-5, rtol=1e-4)


def test_without_fusion_the_image_is_the_base_whatever_the_others_are(mini, loaded, tmp_path):
    joint = structure_family.load(
        written(training.start_joint(mini, fusion=structure.OFF), tmp_path)
    )
    x, t, words, pose, sizes = inputs()
    base = loaded[0].model.diffusion_model(x[:, :4], t, words)
    predicted = predict(joint, x, t, words, pose, sizes)
    torch.testing.assert_close(predicted[:, :4], base, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(predicted[:, 4:8], base, atol=1e-2)


def untrained(checkpoint, folder):
    """A joint network's file whose branches are copies of a checkpoint's own layers."""
    import comfy.utils
    from vitruvian.models import weights

    stored = comfy.utils.load_torch_file(str(checkpoint))
    prefix, tensors = structure_family.PREFIX, weights.widened(stored)
    unet = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    joint = structure.add_experts(unet, fusion=structure.MEAN)
    joint[structure.EPSILON_MARK] = torch.zeros(0)
    path = folder / "untrained.safetensors"
    metadata = {"method": "structure", "version": structure.VERSION, "base": "mini"}
    weights.save(path, {prefix + key: tensor for key, tensor in joint.items()}, metadata)
    return path


def test_from_a_checkpoint_every_image_is_the_bases(loaded, tmp_path):
    joint = structure_family.load(untrained(preview.CHECKPOINT, tmp_path))
    base = loaded[0]
    words = text()
    empty = {"samples": torch.zeros(1, 4, CELLS, CELLS)}
    noise = torch.randn(1, 4, CELLS, CELLS, generator=torch.Generator().manual_seed(1))
    import comfy.sample

    def run(model, noise, latent):
        return comfy.sample.sample(
            model, noise, 3, 2.0, "euler", "normal", words, text(seed=4), latent, seed=1
        )

    expected = run(base, noise, empty["samples"])
    sampled = run(joint, noise.repeat(1, 3, 1, 1), empty["samples"].repeat(1, 3, 1, 1))
    for part in sampled.chunk(3, 1):
        torch.testing.assert_close(part, expected, atol=1e-4, rtol=1e-3)


def test_velocity_on_the_rescaled_schedule_or_noise_on_the_bases(mini, tmp_path):
    joint = random_joint(mini)
    v, e = (structure_family.load(written(joint, tmp_path, epsilon=flag)) for flag in (False, True))
    assert float(v.model.model_sampling.sigma_max) > 1000 > float(e.model.model_sampling.sigma_max)
    x, sigma = torch.randn(1, 12, CELLS, CELLS), torch.tensor([2.0])
    out, signal = torch.randn_like(x), 1 / (1 + sigma**2).sqrt()
    clean = structure.clean_from_velocity(x * signal, out, signal, sigma * signal)
    denoised = v.model.model_sampling.calculate_denoised(sigma, out, x)
    torch.testing.assert_close(denoised, clean, atol=1e-5, rtol=1e-4)
    denoised = e.model.model_sampling.calculate_denoised(sigma, out, x)
    torch.testing.assert_close(denoised, x - sigma * out, atol=1e-5, rtol=1e-4)


def test_no_pose_is_a_black_image(model, loaded):
    vae = loaded[2]
    black = structure_latent.encode_pose(vae, torch.zeros(1, 8 * CELLS, 8 * CELLS, 3))
    assert not black.any()
    posed = [
        structure_latent.with_entries(words, {structure_latent.POSE_LATENT: black})
        for words in (text(), text(seed=4))
    ]
    assert torch.equal(sample(model, *posed), sample(model))


def posed(seed=5, size=(CELLS, CELLS), **more):
    entries = {structure_latent.POSE_LATENT: pose(seed=seed, size=size), **more}
    return [structure_latent.with_entries(words, entries) for words in (text(), text(seed=4))]


def test_pose_and_size_change_the_image_and_its_maps(model):
    parts = [sample(model, *conds) for conds in (posed(), posed(seed=6), posed(width=2000))]
    for one, other in ((0, 1), (0, 2)):
        for a, b in zip(parts[one].chunk(3, 1), parts[other].chunk(3, 1), strict=True):
            assert not torch.allclose(a, b, atol=1e-3)


def test_the_pose_of_another_size_is_fitted(model):
    sampled = sample(model, *posed(size=(5, 6)), size=(9, 13), batch=2)
    assert sampled.shape == (2, 12, 9, 13) and sampled.isfinite().all()


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "dpmpp_sde", "uni_pc", "lcm", "heun"])
def test_any_sampler_repeats(model, sampler):
    sampled = sample(model, *posed(), sampler=sampler, scheduler="sgm_uniform")
    assert sampled.isfinite().all()
    assert torch.equal(sampled, sample(model, *posed(), sampler=sampler, scheduler="sgm_uniform"))


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_chunks_one_by_one_give_the_same(model, monkeypatch, cfg):
    together = sample(model, *posed(), cfg=cfg, batch=2)
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 1e18)
    split = sample(model, *posed(), cfg=cfg, batch=2)
    torch.testing.assert_close(split, together, atol=5e-3, rtol=5e-3)  # of a sigma of thousands


def test_an_area_sees_its_part_of_the_pose(model):
    (entry,) = posed()[0]
    area = [entry[0], {**entry[1], "area": (4, 8, 4, 0), "strength": 1.0}]
    pose_inputs = []

    def spy(executor, x, t, c_concat=None, *args, **kwargs):
        pose_inputs.append(c_concat)
        return executor(x, t, c_concat, *args, **kwargs)

    from comfy.patcher_extension import WrappersMP

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "spy", spy)
    sample(spied, [area], posed()[1], steps=1, cfg=1.0)
    expected = model.model.process_latent_in(pose()[:, :, 4:8])
    torch.testing.assert_close(pose_inputs[0], expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
def test_narrow_weights_and_little_memory(model, mini, tmp_path, dtype):
    """Weights in 8 bits cast layer by layer, and a model that is only partly loaded."""
    import comfy.sd
    from vitruvian.models import weights

    tensors, _ = weights.load(written(random_joint(mini), tmp_path), method="structure")
    narrow = comfy.sd.load_diffusion_model_state_dict(tensors, {"dtype": dtype})
    sampled = sample(narrow, *posed())
    error = (sampled - sample(model, *posed())).norm() / sampled.norm()
    assert sampled.isfinite().all() and error < 0.5


def test_a_change_by_name_reaches_trunk_and_image(model, loaded):
    """As a LoRA of the base does."""
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    base = comfy.lora.model_lora_keys_unet(loaded[0].model, {})
    missing = {key for key in base if key not in keys}
    outermost = ("input_blocks.0.0", "input_blocks_0_0", "conv_in", "out.", "out_", "conv_")
    inner = {key for key in missing if not any(part in key for part in outermost)}
    assert not inner
    key = keys["lora_unet_input_blocks_1_0_in_layers_2"]
    weight = model.model.state_dict()[key]
    changed = model.clone()
    patched = changed.add_patches({key: ("diff", (torch.ones_like(weight),))}, 0.1)
    assert patched and not torch.allclose(sample(changed), sample(model), atol=1e-3)


def test_what_the_host_saves_it_loads_again(model):
    import comfy.sd

    stored = model.model.model_config.process_unet_state_dict_for_saving(
        dict(model.model.diffusion_model.state_dict())
    )
    again = comfy.sd.load_diffusion_model_state_dict({k: v.clone() for k, v in stored.items()})
    assert torch.equal(sample(again), sample(model))


def test_over_an_existing_image_and_inside_a_mask(model):
    latent = {"samples": torch.randn(1, 12, CELLS, CELLS)}
    sampled = sample(model, *posed(), latent=latent, denoise=0.4)
    assert not torch.equal(sampled, latent["samples"])
    mask = torch.zeros(1, 8 * CELLS, 8 * CELLS)
    mask[..., : 4 * CELLS] = 1
    sampled = sample(model, *posed(), latent={**latent, "noise_mask": mask})
    torch.testing.assert_close(sampled[..., 4:], latent["samples"][..., 4:])
    for part, before in zip(sampled.chunk(3, 1), latent["samples"].chunk(3, 1), strict=True):
        assert not torch.allclose(part[..., :4], before[..., :4], atol=1e-2)


def test_preview_shows_all_three():
    latent = structure_family.StructureLatent()
    if not getattr(latent, "latent_rgb_factors_reshape", None):
        assert len(latent.latent_rgb_factors) == 12
        return
    import latent_preview

    show = latent_preview.Latent2RGBPreviewer(
        latent.latent_rgb_factors, None, latent.latent_rgb_factors_reshape
    )
    assert show.decode_latent_to_preview(torch.randn(1, 12, 6, 5)).size == (15, 6)


def test_split_and_join_are_inverse():
    joint = {"samples": torch.randn(2, 12, 4, 5), "noise_mask": torch.ones(1, 4, 5)}
    rgb, depth, normal = structure_latent.split(joint)
    again = structure_latent.join({"rgb": rgb, "depth": depth, "normal": normal})
    assert torch.equal(again["samples"], joint["samples"]) and "noise_mask" in again


def test_wrong_latents_are_reported():
    with pytest.raises(ValueError, match="1 x 4 x 8 x 8 numbers, expected images x 12 channels"):
        structure_latent.split({"samples": torch.zeros(1, 4, 8, 8)})
    with pytest.raises(
        ValueError, match="'depth' has 1 x 4 x 8 x 9 numbers, expected 1 x 4 x 8 x 8"
    ):
        structure_latent.join(
            {
                "rgb": {"samples": torch.zeros(1, 4, 8, 8)},
                "depth": {"samples": torch.zeros(1, 4, 8, 9)},
            }
        )


def test_wrong_uses_are_reported(model):
    filled = {"samples": torch.ones(1, 4, CELLS, CELLS)}
    with pytest.raises(ValueError, match="Empty Structure Latent"):
        sample(model, latent=filled)
    with pytest.raises(ValueError, match="texts of 192 numbers a word, this prompt has 768"):
        sample(model, text(768), text(768))
    controlled = structure_latent.with_entries(text(), {"control": object()})
    with pytest.raises((ValueError, AttributeError)):
        sample(model, controlled)


def test_a_wrong_file_is_reported(tmp_path):
    from vitruvian.models import weights

    path = tmp_path / "other.safetensors"
    weights.save(
        path, {"a": torch.zeros(1)}, {"method": "human_prior", "version": 1, "base": "mini"}
    )
    with pytest.raises(ValueError, match=r"other\.safetensors.*'structure', found 'human_prior'"):
        structure_family.load(path)


def test_an_inpainting_checkpoint_is_refused():
    with pytest.raises(ValueError, match=r"4 channels"):
        structure.add_experts({"input_blocks.0.0.weight": torch.zeros(64, 9, 3, 3)})


@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_the_real_architectures(family, size):
    """Random weights of the shape of SD1.5 and SD2, narrow: three copies are the base."""
    import comfy.ops

    base = family[0].model
    if base.model_config.unet_config["context_dim"] not in (48, 64) or base.adm_channels:
        pytest.skip("SDXL's has a size condition of its own: it is refined, not made joint_unet")
    unet = base.diffusion_model
    joint = structure.add_experts(unet.state_dict())
    config = {
        **base.model_config.unet_config,
        "in_channels": 8,
        "num_classes": "sequential",
        "adm_in_channels": structure.SIZE_WIDTH,
    }
    experts = structure.count_experts(list(joint))
    joint_unet = structure_unet.StructureUNet(
        **config, experts=experts, fusion=structure.MEAN, operations=comfy.ops.disable_weight_init
    ).eval()
    missing = joint_unet.load_state_dict(
        {structure_unet.module_name(key, experts): tensor for key, tensor in joint.items()}
    )
    assert not missing.missing_keys and not missing.unexpected_keys and experts == 3
    g = torch.Generator().manual_seed(1)
    x, pose = torch.randn(2, 4, *size, generator=g), torch.randn(2, 4, *size, generator=g)
    words = torch.randn(2, 77, config["context_dim"], generator=g)
    t, sizes = torch.tensor([5.0, 900.0]), torch.tensor([[8, 9, 1, 0]] * 2)
    y = structure.size_embedding(sizes)
    predicted = joint_unet(torch.cat((x, x, x, pose), 1), t, words, y=y)
    for part in predicted.chunk(3, 1):
        torch.testing.assert_close(part, unet(x, t, words), atol=1e-4, rtol=1e-3)


def test_loaders_list_their_own_methods_files(mini_weights):
    from vitruvian.nodes import inputs

    files = {
        method: inputs.weight_files(method)
        for method in ("human_prior", "hands", "structure", None)
    }
    assert "vitruvian_mini_human_prior.safetensors" in files["human_prior"]
    assert "vitruvian_mini_hands.safetensors" in files["hands"]
    assert not set(files["human_prior"]) & set(files["hands"]) - set(files[None])


def test_partly_loaded_it_gives_the_same(model):
    """As on a GPU with too little memory: some layers are cast only when they are called."""
    x, t, words, pose, sizes = inputs()
    expected = predict(model, x, t, words, pose, sizes)
    model.load(torch.device("cpu"), lowvram_model_memory=200_000)
    cast = [m for m in model.model.modules() if getattr(m, "comfy_cast_weights", False)]
    assert cast, "everything was loaded"
    torch.testing.assert_close(predict(model, x, t, words, pose, sizes), expected)
    model.unpatch_model()


def test_it_can_be_cancelled(model, monkeypatch):
    import comfy.model_management as memory
    import comfy.utils

    def as_in_main(*_, **__):
        memory.throw_exception_if_processing_interrupted()

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", as_in_main)

    def cancel(executor, *args, **kwargs):
        memory.interrupt_current_processing(True)
        return executor(*args, **kwargs)

    from comfy.patcher_extension import WrappersMP

    cancelled = model.clone()
    cancelled.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "cancel", cancel)
    with pytest.raises(memory.InterruptProcessingException):
        sample(cancelled, *posed(), steps=4)
    memory.interrupt_current_processing(False)
    assert sample(model, *posed()).isfinite().all()
