"""Two people on tiny networks of the transformer families, beside the host's nodes."""

import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.supported_models
import folder_paths
import torch
from safetensors.torch import save_file

from ...models.compose import Instance
from ...nodes import compose
from ..benchmarks import networks
from .methods import Inputs, Loaded, Pair, Patch

MAIN = ("flux1", "qwen_image", "z_image")  # every node stands beside these
ONE_OF_EACH_KIND = (  # these stand beside all the others
    "CFGZeroStar", "CFGGuider", "CreateHookLoraModelOnly", "SamplerDPMPP_2M_SDE", "EasyCache",
    "SkipLayerGuidanceDiT", "LoraLoaderModelOnly", "overridden_attention", "wrapped_call",
    "tokens_by_chunk", "replaced_blocks", "joint_attention_by_chunk",
)  # fmt: skip
PIXELS = 128
SETTINGS: dict[str, Any] = {
    "strength": 1.0, "harmony": 0.5, "dilation": 0.06, "start_percent": 0.0, "end_percent": 1.0,
    "background_prompt": compose.MEAN, "shared_negative": True,
}  # fmt: skip


def known_families() -> list[str]:
    """List the transformer families that this host knows; none on hosts that are older than the
    settings of the networks.
    """
    if not hasattr(comfy.latent_formats.LatentFormat, "spacial_downscale_ratio"):
        return []
    return [
        key
        for key, family in networks.FAMILIES.items()
        if not family.is_unet and hasattr(comfy.supported_models, family.supported)
    ]


@cache
def load(key: str) -> Loaded:
    """Make MODEL and prompts of one family, another such MODEL, and a LoRA file."""
    model, other_model = (networks.tiny_network(key, seed=seed) for seed in (1, 2))
    positive, negative, other = (networks.prompt(key, tiny=True, seed=seed) for seed in range(3))
    lora = _lora(key, model)
    return Loaded(model, None, None, None, positive, negative, other, other_model, lora)


@cache
def _folder() -> Path:
    """Make a folder in which the host looks for LoRAs."""
    folder = Path(tempfile.mkdtemp(prefix="vitruvian_loras_"))
    folder_paths.add_model_folder_path("loras", str(folder))
    return folder


def _lora(key: str, model: Any) -> str:
    """Write a LoRA of some layers of the blocks; return its file's name."""
    generator, lora = torch.Generator().manual_seed(8), {}
    for name, weight in list(model.model.named_parameters())[::3]:
        layer = name.removesuffix(".weight")
        if layer != name and weight.dim() == 2 and "." in layer.removeprefix("diffusion_model."):
            up = torch.randn(len(weight), 2, generator=generator) / 10
            lora[f"{layer}.lora_up.weight"] = up
            lora[f"{layer}.lora_down.weight"] = torch.randn(2, weight.shape[1], generator=generator)
    file = _folder() / f"vitruvian_tiny_{key}.safetensors"
    save_file(lora, file)
    return file.name


def empty_latent(loaded: Loaded, batch: int) -> dict[str, torch.Tensor]:
    """Return an empty LATENT of so many images."""
    latent = networks.empty_latent(loaded.model, PIXELS)["samples"]
    return {"samples": latent.repeat_interleave(batch, 0)}


def plain(loaded: Loaded, patch: Patch, positive: Any, negative: Any, batch: int) -> Inputs:
    """Return the sampling without Compose Instances."""
    model = patch(loaded.model) if patch else loaded.model
    return Inputs(model, positive, negative, empty_latent(loaded, batch))


def two_people(
    loaded: Loaded, patch: Patch, positive: Any, negative: Any, batch: int, *, mode: str
) -> Pair:
    """Compose two equal people, each in one half: the plain model; and two different ones."""
    inputs = plain(loaded, patch, positive, negative, batch)

    def composed(*prompts: Any) -> Inputs:
        masks = torch.zeros(2, 1, PIXELS, PIXELS)
        masks[0, ..., : PIXELS // 2], masks[1, ..., PIXELS // 2 :] = 1, 1
        people = tuple(Instance(p, 0, mask) for p, mask in zip(prompts, masks, strict=True))
        result = compose.VitruvianComposeInstances.execute(
            inputs.model, positive, negative, people, mode=mode, **SETTINGS
        ).result
        return Inputs(result[0], result[1], result[2], inputs.latent)

    # what other nodes put on a prompt belongs to the positive; a person has the prompt itself
    equal = composed(loaded.positive, loaded.positive)
    return Pair(equal, inputs, composed(loaded.positive, loaded.other_prompt))


PAIRS = {f"{mode} on transformers": partial(two_people, mode=mode) for mode in ("exact", "couple")}
