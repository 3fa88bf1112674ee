"""The mini checkpoint, and networks of the shape of SD1.5, SD2 and SDXL, narrow and random."""

import pytest
import torch

COMMON = {
    "image_size": 32,
    "in_channels": 4,
    "model_channels": 32,
    "use_spatial_transformer": True,
    "legacy": False,
    "dtype": torch.float32,
}
SD1 = {
    **COMMON, "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "context_dim": 48,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1, "num_heads": 4,
    "num_head_channels": -1, "use_linear_in_transformer": False, "adm_in_channels": None,
}  # fmt: skip
SD1_OUT = {"transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}
SD2 = {
    **SD1,
    "context_dim": 64,
    "use_linear_in_transformer": True,
    "num_heads": -1,
    "num_head_channels": 16,
}
SDXL = {
    **SD2, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "num_classes": "sequential",
    "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
    "adm_in_channels": 2816,
}  # fmt: skip
SDXL_OUT = {"transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10]}
FAMILIES = {
    "SD1.5": ("SD15", SD1, SD1_OUT),
    "SD2": ("SD20", SD2, SD1_OUT),
    "SDXL": ("SDXL", SDXL, SDXL_OUT),
}
V_PREDICTION = "output_blocks.11.1.transformer_blocks.0.norm1.bias"  # how the host tells SD2's kind


def randomize(network, seed):
    """Weights that keep activations near 1; nothing stays zero, the zero convolutions least."""
    g = torch.Generator().manual_seed(seed)
    for name, p in network.named_parameters():
        if p.dim() > 1:
            p.data = torch.randn(p.shape, generator=g) / p[0].numel() ** 0.5
        else:
            p.data = torch.randn(p.shape, generator=g) * 0.1 + name.endswith("weight")


@pytest.fixture(scope="module")
def loaded(mini_weights):
    """MODEL, CLIP and VAE of the mini checkpoint."""
    import nodes  # the host's, as all imports in this file: it is read without a host as well

    with torch.inference_mode():
        return nodes.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[:3]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """MODEL and CONTROL_NET of one family."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    class_name, config, output_config = FAMILIES[request.param]
    model_config = getattr(comfy.supported_models, class_name)(
        {**config, **output_config, "out_channels": 4}
    )
    model_config.unet_config.update({k: config[k] for k in ("num_heads", "num_head_channels")})
    model_config.custom_operations = comfy.ops.disable_weight_init
    base = model_config.get_model({V_PREDICTION: torch.randn(32)})
    randomize(base.diffusion_model, 1)
    net = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, operations=comfy.ops.disable_weight_init
    )
    randomize(net, 2)
    cpu = torch.device("cpu")
    return (
        comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu),
        comfy.controlnet.ControlNet(net, load_device=cpu),
    )


@pytest.fixture(scope="session")
def random_text():
    """(MODEL, seed) -> a conditioning as SDXL's text nodes make it, pooled and with a size."""
    return _random_text


def _random_text(model, seed):
    g = torch.Generator().manual_seed(seed)
    width = model.model.model_config.unet_config["context_dim"]
    pooled = torch.randn(1, 1280, generator=g)
    return [
        [
            torch.randn(1, 77, width, generator=g),
            {"pooled_output": pooled, "width": 256 + 64 * seed, "height": 512},
        ]
    ]


class Transformer(torch.nn.Module):
    """Stands for any network that is no UNet."""


@pytest.fixture
def transformer():
    """A MODEL of another network family."""
    import comfy.model_patcher

    base, cpu = torch.nn.Module(), torch.device("cpu")
    base.diffusion_model = Transformer()
    return comfy.model_patcher.ModelPatcher(base, load_device=cpu, offload_device=cpu)
