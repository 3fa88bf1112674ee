"""The control of a composition on UNets, its union types, and controls that are refused."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_patcher
import comfy.ops
import comfy.supported_models
import comfy.t2i_adapter.adapter
import comfy_extras.nodes_model_patch as patch_nodes
import pytest
import torch
from comfy_extras.nodes_controlnet import SetUnionControlNetType
from vitruvian.host import compose as host
from vitruvian.host.compose.control import Rows
from vitruvian.tests.host.conftest import SDXL, randomize

import nodes as core

CPU = torch.device("cpu")
SIZE = 64
MODES = pytest.mark.parametrize("mode", [host.EXACT, host.LAYERS, host.COUPLE])


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def drawing(person, width, height):
    g = torch.Generator().manual_seed(20 + person)
    cells = torch.rand(1, 3, height // 8, width // 8, generator=g)
    return torch.nn.functional.interpolate(cells, (height, width)).movedim(1, -1)


def halves(width, height):
    masks = torch.zeros(1, 2, height, width)
    masks[:, 0, :, : width // 2] = 1
    masks[:, 1, :, width // 2 :] = 1
    return masks


def composition_of(people, mode=host.EXACT, hint=drawing):
    return host.Composition(
        people=tuple(conditioning[0] for conditioning in people),
        masks=halves,
        hint=hint,
        canvas=(SIZE, SIZE),
        order=(0, 0),
        mode=mode,
        harmony=0.5,
        scene=False,
        shared_negative=True,
        start_percent=0.0,
        end_percent=1.0,
    )


def sample(model, positive, negative, steps=2):
    latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8)}
    return core.common_ksampler(
        model, 7, steps, 3.0, "euler", "normal", positive, negative, latent
    )[0]["samples"]


def composed(model, control_net, texts, mode=host.EXACT, strength=1.0, hint=drawing):
    composition = composition_of(texts[:2], mode, hint)
    control = host.ComposedControl(control_net, composition, strength)
    host.check_controls(model, control)
    return host.compose_model(model, composition), *host.attach(control, texts[2], texts[3])


@MODES
def test_without_a_control_net_the_regions_alone_compose(family, random_text, mode):
    model, control_net = family
    texts = [random_text(model, seed) for seed in (1, 2, 3, 4)]
    alone = sample(*composed(model, None, texts, mode))
    assert torch.equal(sample(*composed(model, control_net, texts, mode, strength=0.0)), alone)
    assert not torch.equal(sample(*composed(model, control_net, texts, mode)), alone)
    one = [texts[0], texts[0], texts[0], texts[3]]
    plain = sample(model, texts[0], texts[3])
    difference = (sample(*composed(model, None, one, mode)) - plain).abs().max()
    assert difference < 1e-4 * plain.abs().max()


def test_without_a_control_net_nothing_more_is_loaded(family, random_text):
    model, control_net = family
    composition = composition_of([random_text(model, 1)] * 2)
    control = host.ComposedControl(None, composition, 1.0)
    assert control.get_models() == [] and control.inference_memory_requirements(torch.half) == 0
    assert control.copy().get_models() == []
    control = host.ComposedControl(control_net, composition, 0.0)
    assert control.get_models() == []
    control = host.ComposedControl(control_net, composition, 1.0)
    assert control.copy().get_models() == control_net.get_models()


# the host's layers for types have 320 channels
WIDE = {
    **SDXL, "model_channels": 320, "num_res_blocks": [1, 1], "channel_mult": [1, 1],
    "transformer_depth": [0, 1], "transformer_depth_middle": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def union():
    """A union ControlNet of SDXL's kind."""
    net = comfy.cldm.cldm.ControlNet(
        **WIDE,
        hint_channels=3,
        union_controlnet_num_control_type=6,
        operations=comfy.ops.disable_weight_init,
    )
    randomize(net, 2)
    return comfy.controlnet.ControlNet(net, load_device=CPU)


@pytest.fixture(scope="module")
def wide_model():
    """A MODEL that the union fits."""
    config = comfy.supported_models.SDXL(
        {**WIDE, "transformer_depth_output": [0, 0, 1, 1], "out_channels": 4}
    )
    config.unet_config.update({k: WIDE[k] for k in ("num_heads", "num_head_channels")})
    config.custom_operations = comfy.ops.disable_weight_init
    base = config.get_model({})
    randomize(base.diffusion_model, 1)
    return comfy.model_patcher.ModelPatcher(base, load_device=CPU, offload_device=CPU)


@MODES
def test_a_union_composes_as_the_hosts_own_node_set_to_openpose(
    wide_model, union, random_text, mode
):
    texts = [random_text(wide_model, seed) for seed in (1, 1, 1, 4)]

    def everybodys(_, width, height):
        return drawing(5, width, height)

    openpose = typed(union, "openpose")
    applied = core.ControlNetApplyAdvanced().apply_controlnet(
        texts[0], texts[3], openpose, drawing(5, SIZE, SIZE), 1.0, 0.0, 1.0
    )
    expected = sample(wide_model, *applied)
    result = sample(*composed(wide_model, union, texts, mode, hint=everybodys))
    assert (result - expected).abs().max() < 1e-4 * expected.abs().max()
    other = typed(union, "segment")
    segmented = sample(*composed(wide_model, other, texts, mode, hint=everybodys))
    assert (segmented - expected).abs().max() > 1e-3 * expected.abs().max()


def typed(control_net, name):
    """Set the type of a union with the host's own node."""
    return SetUnionControlNetType().set_controlnet_type(control_net, name)[0]


def asked_types(control_net, monkeypatch):
    """Sample-free: the type that the network is asked with for one stream."""
    asked = []

    def forward(x, hint, timesteps, context, control_type=(), **kwargs):
        asked.append(list(control_type))
        return {"output": [torch.zeros_like(x)], "middle": []}

    monkeypatch.setattr(control_net.control_model, "forward", forward)
    text = [[torch.zeros(1, 4, 64), {}]]
    control = host.ComposedControl(control_net, composition_of([text, text]), 1.0)
    control.pre_run(_Sampled(), lambda percent: 1e9 * (1 - percent) - 1)
    rows = {"c_crossattn": torch.zeros(1, 4, 64)}
    x = torch.zeros(1, 4, SIZE // 8, SIZE // 8)
    control.residuals([0], 1, Rows(x, torch.ones(1), rows), {})
    return asked


class _Sampled:
    """What a ControlNet asks of the sampled model."""

    latent_format = None

    class model_sampling:  # noqa: N801
        timestep = staticmethod(lambda t: t)
        calculate_input = staticmethod(lambda t, x: x)


def test_a_union_is_set_to_poses(union, monkeypatch):
    assert asked_types(union, monkeypatch) == [[0]]
    assert union.extra_args == {}  # the artist's own stays as it is
    automatic = typed(union, "auto")
    assert asked_types(automatic, monkeypatch) == [[0]]


def test_the_type_that_an_artist_sets_stays(union, monkeypatch):
    depth = typed(union, "depth")
    assert asked_types(depth, monkeypatch) == [[1]]


def test_a_control_net_that_is_no_union_gets_no_type(family, monkeypatch):
    _, control_net = family
    assert asked_types(control_net, monkeypatch) == [[]]


def test_a_control_net_for_other_texts_is_refused(family, union, random_text):
    model, control_net = family
    width = model.model.model_config.unet_config["context_dim"]
    composition = composition_of([random_text(model, 1)] * 2)
    host.check_controls(model, host.ComposedControl(control_net, composition, 1.0))
    control = host.ComposedControl(union, composition, 1.0)  # reads texts of 64
    if width == 64:
        host.check_controls(model, control)
    else:
        with pytest.raises(ValueError, match="'control_net' is for SD.* 64 instead of .* 48"):
            host.check_controls(model, control)


def test_an_adapter_for_sdxl_is_refused_on_others(family, random_text):
    model, _ = family
    network = comfy.t2i_adapter.adapter.Adapter(cin=768, channels=[8, 8, 8, 8], nums_rb=1, xl=True)
    adapter = comfy.controlnet.T2IAdapter(network, 3, 8, "nearest-exact", CPU)
    control = host.ComposedControl(adapter, composition_of([random_text(model, 1)] * 2), 1.0)
    with pytest.raises(ValueError, match="'control_net' is for SD1.5 or SDXL.* 2048"):
        host.check_controls(model, control)


def test_a_control_lora_for_other_texts_is_refused(family, random_text):
    model, _ = family
    width = model.model.model_config.unet_config["context_dim"]
    composition = composition_of([random_text(model, 1)] * 2)
    name = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.down"
    for reads in (width, 2 * width):
        lora = comfy.controlnet.ControlLora({name: torch.zeros(4, reads)})
        control = host.ComposedControl(lora, composition, 1.0)
        if reads == width:
            host.check_controls(model, control)
        else:
            with pytest.raises(ValueError, match="'control_net' is for SDXL"):
                host.check_controls(model, control)


def test_a_control_of_another_pack_is_let_through(family, random_text):
    class Control(comfy.controlnet.ControlBase):
        pass

    model, _ = family
    control = host.ComposedControl(Control(), composition_of([random_text(model, 1)] * 2), 1.0)
    host.check_controls(model, control)


def test_a_model_patch_without_a_pose_is_refused(family, random_text):
    model, _ = family
    composition = composition_of([random_text(model, 1)] * 2)
    style = patch_nodes.SigLIPMultiFeatProjModel(
        4, 4, 4, 4, device=CPU, dtype=torch.float32, operations=comfy.ops.disable_weight_init
    )
    patch = comfy.model_patcher.ModelPatcher(style, load_device=CPU, offload_device=CPU)
    words = "'model_patch' is no pose control .SigLIPMultiFeatProjModel.*Z-Image.*Anima"
    control = host.ComposedControl(None, composition, 1.0, model_patch=patch)
    with pytest.raises(ValueError, match=words):
        host.check_controls(model, control)


def test_a_model_patch_is_refused_on_a_unet(family, random_text):
    model, _ = family
    network = patch_nodes.QwenImageBlockWiseControlNet(
        num_layers=1, dim=8, operations=comfy.ops.disable_weight_init
    )
    patch = comfy.model_patcher.ModelPatcher(network, load_device=CPU, offload_device=CPU)

    composition = composition_of([random_text(model, 1)] * 2)
    control = host.ComposedControl(None, composition, 1.0, model_patch=patch)
    with pytest.raises(ValueError, match="'model_patch' is for Qwen-Image, but .* .UNetModel"):
        host.check_controls(model, control)
