"""What LoRAs of people cost on a network of true size: SDXL, a LoRA of rank 16 on all of its linear
layers and convolutions for each of four people.
"""

from __future__ import annotations

import torch
from torch import nn

from ...host import compose
from ...models.compose import PersonLora
from . import counting, families, networks

FAMILY, PEOPLE, RANK = "sdxl", 4, 16


def operations(quick: bool) -> dict[str, float]:
    """Count one call of the network with LoRAs over one without, in couple and in exact."""
    family = "sd15" if quick else FAMILY
    model = networks.true_network(family)
    latent = networks.empty_latent(model, families.PIXELS)["samples"]
    people = [networks.prompt(family, seed=number) for number in range(PEOPLE)]
    regions = families.columns(PEOPLE)
    loras = tuple((lora_of_all_layers(model, number),) for number in range(PEOPLE))
    numbers = {}
    for mode, name in ((compose.COUPLE, "lora_ops_4"), (compose.EXACT, "lora_ops_4_exact")):
        bare, changed = (
            families.composition(model, people, regions, mode, carried) for carried in ((), loras)
        )
        counted = [counting.cost(*each, latent).operations for each in (bare, changed)]
        numbers[name] = counted[1] / counted[0]
    return numbers


def lora_of_all_layers(model, seed: int) -> PersonLora:
    """Make a LoRA of zeros for all linear layers and convolutions; they take no memory."""
    zero, tensors = torch.zeros((), dtype=torch.bfloat16), {}
    for path, layer in model.model.diffusion_model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            out, *inner = layer.weight.shape
            kernel = [1] * (len(inner) - 1)
            tensors[f"diffusion_model.{path}.lora_up.weight"] = zero.expand(out, RANK, *kernel)
            tensors[f"diffusion_model.{path}.lora_down.weight"] = zero.expand(RANK, *inner)
    return PersonLora(f"person {seed}", tensors, 1.0, 1.0)
