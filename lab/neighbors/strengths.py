"""Every method except compose, applied with random weights to the mini model: what tests walk.

    METHODS[name](model, positive, negative, strength) -> Inputs(model, positive, negative, latent)

    model        a MODEL to begin with: `base(name, loaded)`, or that behind another node
    positive,    CONDITIONINGs to begin with: `prompts(clip)`, or those behind other nodes. The
    negative     positive one says which words are human-centric, and works for every method
    strength     1.0; with 0.0 the sampled latent is that of the base alone, bit for bit

Of Inputs, what a method does not change is what came in. `latent` is the LATENT to sample,
[1, C, CELLS, CELLS]: structure's has 12 channels, mask expansion's a noise mask. `sample(inputs)`
samples them. The weights are large enough that every method changes the latent by more than 1 %
(mask expansion with 3 steps or more).
"""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import comfy.utils
import folder_paths
import torch

import nodes as core

from ...host import appearance, human_prior, refiner, structure_family
from ...models import hand_generator as hand_network
from ...models import human_prior as prior_maths
from ...models import refiner as refiner_maths
from ...models import semantic_map, structure, weights
from ...models.appearance import Alignment, Sizes
from ...models.memory import Part
from ...nodes.appearance import VitruvianApplyAppearance
from ...nodes.hand_generator import VitruvianApplyHandGenerator
from ...nodes.human_prior import VitruvianApplyHumanPrior, VitruvianEncodeHumanPrompt
from ...nodes.mask_expansion import VitruvianApplyMaskExpansion
from ...nodes.refiner import VitruvianApplyStructureRefiner
from ...nodes.structure import VitruvianApplyStructurePose

CELLS = 8  # of the latent, each way
PIXELS = 8 * CELLS
POSE_FILE = "vitruvian_mini_openpose.safetensors"
STRUCTURE = "structure"


class Inputs(NamedTuple):
    """What a sampler gets."""

    model: Any
    positive: Any
    negative: Any
    latent: dict[str, torch.Tensor]


def sample(inputs: Inputs, *, steps: int = 3, sampler: str = "euler", cfg: float = 4.0, **options):
    """Sample as KSampler (Advanced) does; `options` are those of the host's common_ksampler."""
    seed, scheduler = options.pop("seed", 7), options.pop("scheduler", "normal")
    model, positive, negative, latent = inputs
    return core.common_ksampler(
        model, seed, steps, cfg, sampler, scheduler, positive, negative, latent, **options
    )[0]["samples"]


def prompts(clip: Any) -> tuple[Any, Any]:
    """Encode a positive and a negative prompt."""
    positive = VitruvianEncodeHumanPrompt.execute(clip, "a man waving in a park", "", "").result[0]
    return positive, core.CLIPTextEncode().encode(clip, "blurry")[0]


def base(name: str, loaded: tuple[Any, Any, Any]) -> Any:
    """Return the MODEL that a method begins with, of the mini checkpoint (MODEL, CLIP, VAE)."""
    return structure_model() if name == STRUCTURE else loaded[0]


def random_weights(module: Any, seed: int, scale: float = 1.0) -> Any:
    """Fill a module in place with weights that keep activations near `scale`."""
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = scale * torch.randn(p.shape, generator=g) / max(1, p[0].numel()) ** 0.5
    return module.requires_grad_(False).eval()


def empty_latent(channels: int = 4) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(1, channels, CELLS, CELLS)}


def random_image(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(1, PIXELS, PIXELS, 3, generator=g)


def random_prior(model: Any, seed: int = 3) -> human_prior.Prior:
    """Make a layer beside every cross-attention key."""
    layers = {}
    for place, attention in human_prior.cross_attentions(model.model.diffusion_model).items():
        inner, context = human_prior.key_shape(attention)
        layer = prior_maths.PriorLayer(context, inner, 8)
        layers[place] = random_weights(layer, seed)
    return human_prior.Prior(layers, 0.6, prior_maths.BEFORE, "random")


def apply_human_prior(
    model, positive, negative, strength=1.0, *, mask_tokens=prior_maths.BEFORE, window=(0.0, 1.0)
):
    prior, (start, end) = random_prior(model), window
    (patched,) = VitruvianApplyHumanPrior.execute(
        model, prior, strength, -1.0, mask_tokens, start, end, 1.0, 1.0, 1.0
    ).result
    return Inputs(patched, positive, negative, empty_latent())


def random_appearance(model: Any, seed: int = 3) -> appearance.Appearance:
    """Make layers before the first and the last output block."""
    unet = model.model.diffusion_model
    places = 0, len(unet.output_blocks) - 1
    channels: Any = {place: appearance.channels_before(unet, place) for place in places}
    sizes = Sizes(features=10, width=16, tokens=2, heads=2, hidden=6)
    return appearance.Appearance(random_weights(Alignment(channels, sizes), seed), "random")


def parts() -> tuple[Part, ...]:
    g, empty = torch.Generator().manual_seed(0), torch.zeros(0)
    features = torch.nn.functional.normalize(torch.randn(2, 10, generator=g), dim=-1)
    classes = semantic_map.TOP, semantic_map.PANTS
    return tuple(
        Part(part, semantic_map.CLASSES[part], 1.0, feature, feature, empty.long(), empty)
        for part, feature in zip(classes, features, strict=True)
    )


def apply_appearance(model, positive, negative, strength=1.0, *, window=(0.0, 1.0)):
    labels = torch.randint(24, (1, 40, 56), generator=torch.Generator().manual_seed(0)).byte()
    (patched,) = VitruvianApplyAppearance.execute(
        model, random_appearance(model), parts(), labels, strength, strength, *window
    ).result
    return Inputs(patched, positive, negative, empty_latent())


def random_hand_generator(model: Any) -> hand_network.LoadedHandGenerator:
    """Make a network of random layers, and a low-rank change of one layer of the UNet."""
    unet, key = model.model.diffusion_model, "output_blocks.0.0.in_layers.2"
    network = hand_network.HandGenerator(unet.input_blocks[0][0].out_channels)
    g, shape = torch.Generator().manual_seed(4), unet.get_submodule(key).weight.shape
    low_rank = {
        f"diffusion_model.{key}.lora_up.weight": torch.randn(shape[0], 2, 1, 1, generator=g),
        f"diffusion_model.{key}.lora_down.weight": torch.randn(2, *shape[1:], generator=g) / 25,
    }
    return hand_network.LoadedHandGenerator(random_weights(network, 4), low_rank, "random")


def hand_poses() -> list[dict[str, Any]]:
    points = torch.rand(21, 2, generator=torch.Generator().manual_seed(1)) * PIXELS
    flat = torch.cat((points, torch.ones(21, 1)), 1).flatten().tolist()
    person = {"hand_left_keypoints_2d": flat}
    return [{"people": [person], "canvas_width": PIXELS, "canvas_height": PIXELS}]


def apply_hand_generator(model, positive, negative, strength=1.0):
    (patched,) = VitruvianApplyHandGenerator.execute(
        model, random_hand_generator(model), hand_poses(), strength
    ).result
    return Inputs(patched, positive, negative, empty_latent())


def preserved_latent() -> dict[str, torch.Tensor]:
    """Make a LATENT of which the middle is preserved, and the lower edge by half."""
    mask = torch.ones(1, 1, PIXELS, PIXELS)
    mask[..., 24:40, 24:40] = 0
    mask[..., -8:, :] = 0.5
    g = torch.Generator().manual_seed(3)
    return {"samples": torch.randn(1, 4, CELLS, CELLS, generator=g), "noise_mask": mask}


def apply_mask_expansion(model, positive, negative, strength=1.0):
    (patched,) = VitruvianApplyMaskExpansion.execute(model, round(16 * strength), 0.2, 0.8).result
    return Inputs(patched, positive, negative, preserved_latent())


@cache
def random_refiner() -> Any:
    """Make a CONTROL_NET for which every condition counts, of the mini pose ControlNet."""
    path = folder_paths.get_full_path_or_raise("controlnet", POSE_FILE)
    tensors = refiner_maths.refiner_from_controlnet(comfy.utils.load_torch_file(path))
    g = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if not refiner_maths.is_controlnet(name):
            noise = torch.randn(tensor.shape, generator=g).to(tensor)
            tensors[name] = tensor + 0.1 * noise
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.safetensors"
        facts: dict[str, Any] = {
            "method": "refiner",
            "version": refiner_maths.VERSION,
            "base": "mini",
        }
        weights.save(file, tensors, facts)
        return refiner.load(file)


def apply_refiner(model, positive, negative, strength=1.0, *, window=(0.0, 1.0)):
    start, end = window
    images: Any = {
        f"{condition}_image": random_image(k)
        for k, condition in enumerate(refiner_maths.CONDITIONS)
    }
    positive, negative = VitruvianApplyStructureRefiner.execute(
        positive, negative, strength, start, end, refiner=random_refiner(), **images
    ).result
    return Inputs(model, positive, negative, empty_latent())


@cache
def structure_model() -> Any:
    """Make a joint MODEL of the mini checkpoint whose branches and trunk differ from it."""
    path = folder_paths.get_full_path_or_raise("checkpoints", "vitruvian_mini.safetensors")
    prefix, tensors = structure_family.PREFIX, weights.widened(comfy.utils.load_torch_file(path))
    unet = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    joint = structure.add_experts(unet)
    g = torch.Generator().manual_seed(6)
    for name, tensor in joint.items():
        joint[name] = tensor + 0.02 * torch.randn(tensor.shape, generator=g).to(tensor)
    joint[structure.EPSILON_MARK] = torch.zeros(0)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.safetensors"
        facts: dict[str, Any] = {"method": STRUCTURE, "version": structure.VERSION, "base": "mini"}
        weights.save(file, {prefix + key: t for key, t in joint.items()}, facts)
        return structure_family.load(file)


class HalvingVae:
    """Stands for a VAE: the pose image, eight times smaller, with a fourth channel of zeros."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 8)
        return 5 * torch.nn.functional.pad(small, (0, 0, 0, 0, 0, 1))


def apply_structure(model, positive, negative, strength=1.0):
    """Give a joint model a pose; strength 0 is a black pose image, which is none."""
    image = strength * random_image(8)
    positive, negative = VitruvianApplyStructurePose.execute(
        positive, negative, HalvingVae(), image
    ).result
    return Inputs(model, positive, negative, empty_latent(12))


METHODS: dict[str, Callable[..., Inputs]] = {
    "human prior": apply_human_prior,
    "appearance": apply_appearance,
    "hand generator": apply_hand_generator,
    "mask expansion": apply_mask_expansion,
    "refiner": apply_refiner,
    STRUCTURE: apply_structure,
}
