"""LoRA files as the common trainers write them, read for each family of networks: which layers they
change, and that the change is the one that the host merges; and files that are refused.
"""

import copy
import functools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import comfy.hooks
import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import comfy.utils
import pytest
import torch
from torch import Generator, nn
from vitruvian.host.lora_files import (
    add_changes,
    layer_changes,
    loras_of_hooks,
    text_encoder_patched,
)
from vitruvian.host.registration import register
from vitruvian.models.compose import PersonLora
from vitruvian.tests.host import conftest
from vitruvian.tests.host.transformer_networks import CPU, NETWORKS, is_known, make_model

register()
RANK, CLOSE = 4, 1e-5
Place = tuple[str, tuple[int, int] | None]  # a layer's path, and (start, rows) of its output


class Style(NamedTuple):
    """How one trainer names what it has trained."""

    name: str  # {} is the trainer's own name of the layer
    up: str
    down: str
    alpha: bool = False
    dots: str = "."  # within the name


STYLES = {
    "kohya": Style("lora_unet_{}", ".lora_up.weight", ".lora_down.weight", True, "_"),
    "LyCORIS": Style("lora_unet_{}", ".hada_w1_a", ".hada_w1_b", True, "_"),
    "Wan Fun": Style("lora_unet__{}", ".lora_up.weight", ".lora_down.weight", True, "_"),
    "native": Style("diffusion_model.{}", ".lora_up.weight", ".lora_down.weight", True),
    "ai-toolkit": Style("diffusion_model.{}", ".lora_B.weight", ".lora_A.weight"),
    "diffusers": Style("transformer.{}", ".lora_B.weight", ".lora_A.weight"),
    "diffusers UNet": Style("unet.{}", "_lora.up.weight", "_lora.down.weight"),
    "PEFT": Style("base_model.model.{}", ".lora_B.weight", ".lora_A.weight"),
    "DiffSynth": Style("{}", ".lora_B.default.weight", ".lora_A.default.weight"),
    "OneTrainer": Style("lora_transformer_{}", ".lora_up.weight", ".lora_down.weight", True, "_"),
    "SimpleTuner": Style("lycoris_{}", ".lokr_w1", ".lokr_w2", True, "_"),
}


def _parts(stem: str, names: str, path: str, rows: int) -> dict[str, Place]:
    """The parts of a fused layer: q, k and v under their own names."""
    return {f"{stem}{name}": (path, (i * rows, rows)) for i, name in enumerate(names.split())}


def _layers(**paths: str) -> dict[str, Place]:
    return {name: (path, None) for name, path in paths.items()}


# fmt: off
QKV, ADDED_QKV = "to_q to_k to_v", "add_q_proj add_k_proj add_v_proj"
FLUX_BLOCKS: dict[str, Place] = {
    **_parts("transformer_blocks.0.attn.", QKV, "double_blocks.0.img_attn.qkv", 64),
    **_parts("transformer_blocks.1.attn.", ADDED_QKV, "double_blocks.1.txt_attn.qkv", 64),
    **_parts("single_transformer_blocks.1.attn.", QKV, "single_blocks.1.linear1", 64),
    "single_transformer_blocks.1.proj_mlp": ("single_blocks.1.linear1", (192, 256)),
    **_layers(**{
        "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn.proj",
        "transformer_blocks.1.attn.to_add_out": "double_blocks.1.txt_attn.proj",
        "transformer_blocks.0.ff.net.0.proj": "double_blocks.0.img_mlp.0",
        "transformer_blocks.1.ff_context.net.2": "double_blocks.1.txt_mlp.2",
        "single_transformer_blocks.1.proj_out": "single_blocks.1.linear2",
        "x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
    }),
}
FLUX: dict[str, Place] = {
    **FLUX_BLOCKS,
    **_layers(**{
        "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.lin",
        "transformer_blocks.0.norm1_context.linear": "double_blocks.0.txt_mod.lin",
        "single_transformer_blocks.0.norm.linear": "single_blocks.0.modulation.lin",
        "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
        "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
        "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
    }),
}
FLUX2: dict[str, Place] = {
    **_parts("transformer_blocks.0.attn.", QKV, "double_blocks.0.img_attn.qkv", 64),
    **_parts("transformer_blocks.0.attn.", ADDED_QKV, "double_blocks.0.txt_attn.qkv", 64),
    **_layers(**{
        "transformer_blocks.0.ff.linear_in": "double_blocks.0.img_mlp.0",
        "transformer_blocks.0.ff_context.linear_out": "double_blocks.0.txt_mlp.2",
        "single_transformer_blocks.1.attn.to_qkv_mlp_proj": "single_blocks.1.linear1",
        "single_transformer_blocks.1.attn.to_out": "single_blocks.1.linear2",
    }),
}
Z_IMAGE: dict[str, Place] = {
    **_parts("layers.1.attention.", QKV, "layers.1.attention.qkv", 256),
    **_parts("noise_refiner.0.attention.", QKV, "noise_refiner.0.attention.qkv", 256),
    **_layers(**{
        "layers.1.attention.to_out.0": "layers.1.attention.out",
        "layers.0.feed_forward.w2": "layers.0.feed_forward.w2",
        "context_refiner.0.feed_forward.w3": "context_refiner.0.feed_forward.w3",
        "layers.0.adaLN_modulation.0": "layers.0.adaLN_modulation.0",
    }),
}
SD3_LAST = "joint_blocks.1.context_block"
SD3: dict[str, Place] = {
    **_parts("transformer_blocks.0.attn.", QKV, "joint_blocks.0.x_block.attn.qkv", 128),
    **_parts("transformer_blocks.1.attn.", ADDED_QKV, "joint_blocks.1.context_block.attn.qkv", 128),
    **_layers(**{
        "transformer_blocks.1.attn.to_out.0": "joint_blocks.1.x_block.attn.proj",
        "transformer_blocks.0.attn.to_add_out": "joint_blocks.0.context_block.attn.proj",
        "transformer_blocks.0.ff.net.0.proj": "joint_blocks.0.x_block.mlp.fc1",
        "transformer_blocks.0.norm1.linear": "joint_blocks.0.x_block.adaLN_modulation.1",
        "transformer_blocks.1.norm1_context.linear": f"{SD3_LAST}.adaLN_modulation.1",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        "pos_embed.proj": "x_embedder.proj",
    }),
}
KREA2: dict[str, Place] = _layers(**{
    "transformer_blocks.0.attn.to_q": "blocks.0.attn.wq",
    "transformer_blocks.1.attn.to_k": "blocks.1.attn.wk",
    "transformer_blocks.1.attn.to_gate": "blocks.1.attn.gate",
    "transformer_blocks.0.attn.to_out.0": "blocks.0.attn.wo",
    "transformer_blocks.0.ff.down": "blocks.0.mlp.down",
    "text_fusion.refiner_blocks.1.ff.up": "txtfusion.refiner_blocks.1.mlp.up",
    "img_in": "first", "time_mod_proj": "tproj.1", "final_layer.linear": "last.linear",
})
ATTENTIONS: dict[str, Place] = {
    f"{name}.transformer_blocks.0.{layer}": (f"{path}.transformer_blocks.0.{layer}", None)
    for name, path in {
        "down_blocks.1.attentions.1": "input_blocks.5.1",
        "mid_block.attentions.0": "middle_block.1",
        "up_blocks.1.attentions.0": "output_blocks.3.1",
    }.items()
    for layer in ("attn1.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")
}
# fmt: on
RESNETS = _layers(
    **{
        "down_blocks.1.attentions.1.proj_in": "input_blocks.5.1.proj_in",
        "down_blocks.0.resnets.0.conv1": "input_blocks.1.0.in_layers.2",
        "down_blocks.0.resnets.1.conv2": "input_blocks.2.0.out_layers.3",
        "down_blocks.1.resnets.0.conv_shortcut": "input_blocks.4.0.skip_connection",
        "down_blocks.1.resnets.0.time_emb_proj": "input_blocks.4.0.emb_layers.1",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.{}.conv",
    }
)
EVERY = "every layer, as the network names it"
EMPTY: Mapping[str, Place] = {}
IDENTITY = {"native": EVERY, "ai-toolkit": EVERY, "kohya": EVERY, "LyCORIS": EVERY}
FILES: dict[str, Mapping[str, Any]] = {  # per family and style: the layers, by the trainer's names
    "Flux.1 dev": {
        **IDENTITY,
        **dict.fromkeys(("diffusers", "OneTrainer", "SimpleTuner"), FLUX),
    },
    "Flux.2 dev": {**IDENTITY, "diffusers": FLUX2},
    "Chroma": {**IDENTITY, "diffusers": FLUX_BLOCKS, "SimpleTuner": FLUX_BLOCKS},
    "Qwen-Image": {
        **IDENTITY,
        **dict.fromkeys(("diffusers", "DiffSynth", "SimpleTuner"), EVERY),
    },
    "Z-Image": {
        **IDENTITY,
        **dict.fromkeys(("diffusers", "ai-toolkit", "SimpleTuner"), Z_IMAGE),
    },
    "Lumina 2": IDENTITY,
    "SD3": {
        **IDENTITY,
        **dict.fromkeys(("diffusers", "PEFT", "OneTrainer", "SimpleTuner"), SD3),
    },
    "Krea 2": {**IDENTITY, **dict.fromkeys(("diffusers", "ai-toolkit", "SimpleTuner"), KREA2)},
    "Anima": IDENTITY,
    "Wan 2.1": {**IDENTITY, "Wan Fun": EVERY},
    "SD1.5": {
        "kohya": {**ATTENTIONS, **RESNETS},
        "diffusers UNet": ATTENTIONS,
        **dict.fromkeys(("native", "LyCORIS"), EVERY),
        "SimpleTuner": {**ATTENTIONS, **RESNETS},
    },
    "SDXL": {
        "kohya": EVERY,
        "diffusers UNet": ATTENTIONS,
        "LyCORIS": {**ATTENTIONS, **RESNETS},
        "native": EVERY,
    },
}
CASES = [(family, style) for family, styles in FILES.items() for style in styles]
SINCE_V33 = {("Z-Image", "diffusers"), ("Z-Image", "ai-toolkit"), ("Z-Image", "SimpleTuner")}


@functools.cache
def model_of(family):
    """A tiny random MODEL."""
    if family in conftest.FAMILIES:
        return _unet(family)
    if not is_known(family):
        pytest.skip(f"this host does not know {family}")
    with pytest.MonkeyPatch.context() as patch:
        network = NETWORKS[family]
        if family in ("Flux.1 dev", "Chroma"):  # the host cuts linear1 where mlp_ratio is 4
            network = network._replace(config={**network.config, "mlp_ratio": 4.0})
        patch.setitem(NETWORKS, family, network)
        return make_model(family)


def _unet(family):
    class_name, config, output_config = conftest.FAMILIES[family]
    settings = {**config, **output_config, "out_channels": 4}
    model_config = getattr(comfy.supported_models, class_name)(settings)
    heads = {name: config[name] for name in ("num_heads", "num_head_channels")}
    model_config.unet_config.update(heads)
    model_config.custom_operations = comfy.ops.disable_weight_init
    base = model_config.get_model({conftest.V_PREDICTION: torch.randn(32)})
    conftest.randomize(base.diffusion_model, 1)
    return comfy.model_patcher.ModelPatcher(base, load_device=CPU, offload_device=CPU)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    model_of.cache_clear()


def every_layer(model):
    """All layers that LoRAs are trained for, under the network's own names."""
    kinds = nn.Linear, nn.Conv2d, nn.Conv3d
    network = model.model.diffusion_model
    return {p: (p, None) for p, layer in network.named_modules() if isinstance(layer, kinds)}


def layers_of(family, style):
    """What the file of a style has for a family: the trainer's name -> a place in the network."""
    layers = FILES[family][style]
    if layers is EVERY:
        return every_layer(model_of(family))
    at = 2 if family == "SDXL" else 1  # where a UNet's upsampler is in its block
    return {name: (path.format(at), span) for name, (path, span) in layers.items()}


def file_of(family, style, seed=1):
    """The tensors of a small random LoRA in the layout of a trainer."""
    g = Generator().manual_seed(seed)
    network = model_of(family).model.diffusion_model
    tensors = {}
    for name, (path, span) in layers_of(family, style).items():
        weight = network.get_submodule(path).weight
        rows = span[1] if span else len(weight)
        stem = _stem(name, style)
        tensors |= {
            stem + end: value
            for end, value in _factors(STYLES[style], rows, weight.shape[1:], g).items()
        }
    return tensors


def _stem(name, style):
    if style == "diffusers UNet":
        name = name.replace(".to_", ".processor.to_").removesuffix(".0")
    return STYLES[style].name.format(name.replace(".", STYLES[style].dots))


def _factors(style, rows, columns, g):
    def random(*size):
        return torch.randn(size, generator=g) * 0.3

    width, alpha = columns.numel(), {".alpha": torch.tensor(2.0)} if style.alpha else {}
    if style.up == ".lokr_w1":
        split = 2 if rows % 2 == 0 and columns[0] % 2 == 0 else 1
        w2 = random(rows // split, columns[0] // split, *columns[1:])
        return {".lokr_w1": random(split, split), ".lokr_w2": w2, **alpha}
    if style.up == ".hada_w1_a":
        sides = {f".hada_w{i}_{s}": random(*n) for i in (1, 2) for s, n in _ends(rows, width)}
        return {**sides, **alpha}
    up = random(rows, RANK, *[1] * (len(columns) - 1))
    return {style.up: up, style.down: random(RANK, *columns), **alpha}


def _ends(rows, width):
    return ("a", (rows, RANK)), ("b", (RANK, width))


def person_lora(tensors, strength=0.7, strength_clip=0.0):
    return PersonLora("someone.safetensors", tensors, strength, strength_clip)


def patched_by_host(model, tensors, strength=0.7):
    """The MODEL with a LoRA as the host's loader adds it."""
    return comfy.sd.load_lora_for_models(model, None, dict(tensors), strength, 0.0)[0]


def merged(patched, path):
    """A layer with the weight that the host gives it."""
    layer = copy.deepcopy(patched.model.diffusion_model.get_submodule(path))
    key = f"diffusion_model.{path}.weight"
    layer.weight.data = comfy.lora.calculate_weight(patched.patches[key], layer.weight.data, key)
    return layer


def an_input(layer):
    g = Generator().manual_seed(3)
    if hasattr(layer, "in_features"):
        return torch.randn(2, 5, layer.in_features, generator=g)
    sizes = [8] * len(layer.kernel_size)
    return torch.randn(2, layer.in_channels, *sizes, generator=g)


def changed(layer, changes):
    x = an_input(layer)
    return add_changes(layer(x), x, [change.to(CPU, torch.float32) for change in changes])


def error(a, b):
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("family, style", CASES)
def test_a_trainers_file_changes_the_layers_that_the_host_merges(family, style):
    if (family, style) in SINCE_V33 and not hasattr(comfy.utils, "z_image_to_diffusers"):
        pytest.skip("this host does not know the layout")
    model, tensors = model_of(family), file_of(family, style)
    changes = layer_changes(model, [person_lora(tensors)])
    places = [(path, change.span) for path, each in changes.items() for change in each]
    expected = layers_of(family, style).values()
    assert sorted(places, key=str) == sorted(expected, key=str)
    network, patched = model.model.diffusion_model, patched_by_host(model, tensors)
    for path, each in changes.items():
        layer = network.get_submodule(path)
        want = merged(patched, path)(an_input(layer))
        assert error(layer(an_input(layer)), want) > 1e-3, path
        assert error(changed(layer, each), want) < CLOSE, path


@pytest.mark.parametrize("family", ["Flux.1 dev", "SD3", "SDXL"])
def test_dora_on_parts_of_a_fused_layer(family):
    style = "diffusers UNet" if family == "SDXL" else "diffusers"
    model, tensors, g = model_of(family), file_of(family, style), Generator().manual_seed(4)
    tensors |= {
        f"{key.removesuffix(STYLES[style].up)}.dora_scale": torch.rand(len(up), 1, generator=g) + 1
        for key, up in tensors.items()
        if key.endswith(STYLES[style].up) and up.ndim == 2
    }
    network, patched = model.model.diffusion_model, patched_by_host(model, tensors)
    changes = layer_changes(model, [person_lora(tensors)])
    assert len(changes) > 5
    for path, each in changes.items():
        layer = network.get_submodule(path)
        want = merged(patched, path)(an_input(layer))
        assert error(changed(layer, each), want) < CLOSE, path


def test_files_are_chained_in_their_order():
    model = model_of("Flux.1 dev")
    first, second = file_of("Flux.1 dev", "diffusers"), file_of("Flux.1 dev", "kohya", 2)
    changes = layer_changes(model, [person_lora(first), person_lora(second, -0.3)])
    path = "double_blocks.0.img_attn.qkv"
    once = layer_changes(model, [person_lora(second, -0.3)])[path]
    assert [change.span for change in changes[path]] == [(0, 64), (64, 64), (128, 64), None]
    assert torch.equal(changes[path][3].factors[0], once[0].factors[0])
    layer = model.model.diffusion_model.get_submodule(path)
    chained = merged(patched_by_host(patched_by_host(model, first), second, -0.3), path)
    assert error(changed(layer, changes[path]), chained(an_input(layer))) < CLOSE


def test_nothing_on_the_model_is_touched():
    model, tensors = model_of("Flux.1 dev"), file_of("Flux.1 dev", "diffusers")
    before = {k: v.clone() for k, v in model.model.state_dict().items()}
    file_before = {k: v.clone() for k, v in tensors.items()}
    layer = model.model.diffusion_model.get_submodule("single_blocks.1.linear1")
    changed(layer, layer_changes(model, [person_lora(tensors)])["single_blocks.1.linear1"])
    assert all(torch.equal(v, before[k]) for k, v in model.model.state_dict().items())
    assert model.patches == {} and all(torch.equal(v, file_before[k]) for k, v in tensors.items())


def refusal(family, tensors):
    with pytest.raises(ValueError) as refused:
        layer_changes(model_of(family), [person_lora(tensors)])
    return str(refused.value)


def test_a_file_for_another_family_is_refused_with_the_number_of_keys_that_fit():
    tensors = file_of("Flux.1 dev", "diffusers")
    text = refusal("Qwen-Image", tensors)
    outside = ("time_text_embed.timestep_embedder.linear_1", "norm_out.linear", "proj_out")
    of_qwen = *outside, "transformer_blocks.0.attn", "transformer_blocks.1.attn"
    shared = sum(
        key.startswith(tuple(f"transformer.{name}." for name in of_qwen)) for key in tensors
    )
    assert (
        f"'someone.safetensors' is for another kind of model: {shared} of its {len(tensors)} keys"
        in text
    )
    assert "trained for this kind of model" in text
    assert f": 0 of its {len(tensors)} keys fit this one" in refusal("SDXL", tensors)


def test_a_file_whose_names_fit_but_not_its_sizes_is_refused():
    tensors = file_of("Qwen-Image", "native")
    wide = {
        key: value.repeat(1, 2) if key.endswith("lora_down.weight") else value
        for key, value in tensors.items()
    }
    assert f": 0 of its {len(wide)} keys fit this one" in refusal("Qwen-Image", wide)


def test_a_part_of_another_width_than_the_networks_is_no_fit():
    """The host cuts Flux's linear1 as if its MLP had 4 times the width."""
    name = "Flux.1 schnell"  # with mlp_ratio 2
    tensors = {
        f"transformer.single_transformer_blocks.0.proj_mlp.lora_{side}.weight": torch.zeros(size)
        for side, size in (("A", (RANK, 64)), ("B", (256, RANK)))
    }
    assert ": 0 of its 2 keys fit" in refusal(name, tensors)


def test_what_does_not_fit_is_logged_once_where_most_fits(caplog):
    tensors = file_of("SD3", "kohya")
    for name in ("lora_unet_joint_blocks_7_x_block_attn_qkv", "lora_unet_more"):
        tensors[f"{name}.lora_up.weight"] = torch.zeros(4, RANK)
        tensors[f"{name}.lora_down.weight"] = torch.zeros(RANK, 4)
    with caplog.at_level(logging.WARNING):
        changes = layer_changes(model_of("SD3"), [person_lora(tensors)])
    assert len(changes) == len(every_layer(model_of("SD3")))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    said = caplog.records[0].getMessage()
    assert f"4 of its {len(tensors)} keys do not fit" in said and "joint_blocks_7" in said


def test_the_text_encoders_part_is_no_misfit(caplog):
    tensors = file_of("SD1.5", "kohya")
    tensors |= text_part("lora_te_text_model_encoder_layers_0_mlp_fc1", 8)
    many = {f"lora_te1_text_model_encoder_layers_{i}_mlp_fc1": i for i in range(1000)}
    tensors |= {f"{name}.lora_up.weight": torch.zeros(2, 2) for name in many}
    with caplog.at_level(logging.WARNING):
        assert layer_changes(model_of("SD1.5"), [person_lora(tensors)])
    assert not caplog.records


def test_a_file_with_a_text_encoders_part_alone_changes_no_layer():
    tensors = text_part("lora_te_text_model_encoder_layers_0_mlp_fc1", 8)
    assert layer_changes(model_of("SD1.5"), [person_lora(tensors)]) == {}


def test_a_checkpoint_is_refused_as_no_lora():
    tensors = dict(list(model_of("SD1.5").model.state_dict().items())[:9])
    text = refusal("SD1.5", tensors)
    assert "'someone.safetensors' is not a LoRA: none of its 9 keys" in text
    assert "Choose a LoRA" in text and next(iter(tensors)) in text
    assert "none of its 0 keys" in refusal("SD1.5", {})


def test_strength_0_is_not_even_read():
    tensors = file_of("Flux.1 dev", "diffusers")
    assert layer_changes(model_of("SDXL"), [person_lora(tensors, 0.0)]) == {}


def text_part(name, width, seed=5):
    g = Generator().manual_seed(seed)
    return {
        f"{name}.lora_up.weight": torch.randn(width * 4, RANK, generator=g),
        f"{name}.lora_down.weight": torch.randn(RANK, width, generator=g),
        f"{name}.alpha": torch.tensor(2.0),
    }


@pytest.fixture(scope="module")
def clip_lora(loaded):
    """A LoRA for the text encoder of the mini checkpoint, beside a part for a network."""
    names = comfy.lora.model_lora_keys_clip(loaded[1].cond_stage_model, {})
    name = next(name for name in names if name.startswith("lora_te_") and name.endswith("mlp_fc1"))
    width = loaded[1].cond_stage_model.state_dict()[names[name]].shape[1]
    return {**text_part(name, width), "lora_unet_x.lora_up.weight": torch.zeros(4, RANK)}


def encoded(clip):
    return clip.encode_from_tokens_scheduled(clip.tokenize("a red hat"))[0][0]


def test_the_text_encoders_part_is_the_hosts(loaded, clip_lora, caplog):
    clip = loaded[1]
    with caplog.at_level(logging.WARNING):
        patched = text_encoder_patched(clip, [person_lora(clip_lora, 0.0, 0.6)])
    assert not caplog.records
    want = comfy.sd.load_lora_for_models(None, clip, dict(clip_lora), 0.0, 0.6)[1]
    plain = encoded(clip).clone()
    assert torch.equal(encoded(patched), encoded(want))
    assert not torch.equal(encoded(patched), plain) and torch.equal(encoded(clip), plain)


def test_a_clip_without_a_part_is_the_same_clip(loaded, clip_lora):
    clip = loaded[1]
    for loras in (
        [],
        [person_lora(clip_lora, 1.0, 0.0)],
        [person_lora(file_of("SD1.5", "kohya"), 1, 1)],
    ):
        assert text_encoder_patched(clip, loras) is clip


def hooks_of(tensors, strength=0.7):
    return comfy.hooks.create_hook_lora(tensors, strength, 0.5)


def keyframed(hooks, *strengths):
    frames = comfy.hooks.HookKeyframeGroup()
    for i, strength in enumerate(strengths):
        frames.add(comfy.hooks.HookKeyframe(strength, i / len(strengths)))
    hooks.set_keyframes_on_hooks(frames)
    return hooks


def test_hooks_are_loras_with_their_strength():
    first, second = file_of("SD3", "diffusers"), file_of("SD3", "kohya")
    hooks = hooks_of(first).clone_and_combine(keyframed(hooks_of(second, 0.5), 0.5, 0.5))
    loras = loras_of_hooks(hooks)
    assert [lora.strength for lora in loras] == [0.7, 0.25]
    assert [lora.strength_clip for lora in loras] == [0.0, 0.0]  # the host encoded with it
    changes = layer_changes(model_of("SD3"), loras)
    alone = layer_changes(model_of("SD3"), [person_lora(first), person_lora(second, 0.25)])
    assert {p: len(each) for p, each in changes.items()} == {
        p: len(each) for p, each in alone.items()
    }
    assert changes["final_layer.linear"][-1].scale == alone["final_layer.linear"][-1].scale


def test_hooks_through_the_hosts_nodes(loaded):
    """The conditioning of a CLIP with hooks has them in its entry, the text part applied."""
    clip = loaded[1].clone()
    tensors = file_of("SD1.5", "kohya")
    clip.use_clip_schedule, hooks = False, hooks_of(tensors)
    clip.apply_hooks_to_conds = hooks
    entry = clip.encode_from_tokens_scheduled(clip.tokenize("a hat"))[0][1]
    assert [lora.tensors is tensors for lora in loras_of_hooks(entry["hooks"])] == [True]


def test_other_hooks_are_refused_by_their_kind():
    def words(hooks):
        with pytest.raises(ValueError) as refused:
            loras_of_hooks(hooks)
        return str(refused.value)

    group = comfy.hooks.HookGroup()
    group.add(comfy.hooks.TransformerOptionsHook({}))
    assert "hook 1 is of the kind 'transformer_options'" in words(group)
    weights = comfy.hooks.create_hook_model_as_lora({"x": torch.zeros(1)}, None, 1.0, 1.0)
    assert "a model as a LoRA" in words(weights)
    varying = keyframed(hooks_of(EMPTY), 1.0, 0.5)
    assert "strength of hook 1 changes over time" in words(varying)
