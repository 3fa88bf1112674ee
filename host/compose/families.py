"""The network families on which people can be composed: one row of FAMILIES each."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..sampling import UNET, Family, known_family
from . import unets
from .calls import NetworkCall
from .next_dit import NEXT_DIT
from .streams import COUPLE, EXACT, LAYERS, NODE
from .text_masks import CROSS, JOINT, TEXT
from .transformers import Transformer, counted_from_the_first, run


class ComposeFamily(NamedTuple):
    """One family of networks that can compose."""

    family: Family
    run: Callable[[NetworkCall], Tensor]  # a call of the host -> the rows of its chunks
    modes: tuple[str, ...]


def _transformer(names: tuple[str, ...], network: str, transformer: Transformer) -> ComposeFamily:
    family = Family(names, f"comfy.ldm.{network}")
    return ComposeFamily(family, partial(run, transformer=transformer), (EXACT, COUPLE))


_FLUX_BLOCKS = {"double_blocks.*": JOINT, "single_blocks.*": JOINT}

FAMILIES = (
    ComposeFamily(UNET, unets.run, (EXACT, LAYERS, COUPLE)),
    _transformer(
        ("Flux.1", "Flux.2"),
        "flux.model.Flux",
        Transformer("final_layer", _FLUX_BLOCKS, lay_texts=counted_from_the_first("pe_embedder")),
    ),
    _transformer(("Chroma",), "chroma.model.Chroma", Transformer("final_layer", _FLUX_BLOCKS)),
    _transformer(
        ("Qwen-Image",),
        "qwen_image.model.QwenImageTransformer2DModel",
        Transformer(
            "norm_out",
            {"transformer_blocks.*": JOINT},
            lay_texts=counted_from_the_first("pe_embedder"),
        ),
    ),
    _transformer(("Z-Image", "Lumina 2"), "lumina.model.NextDiT", NEXT_DIT),
    _transformer(
        ("SD3", "SD3.5"),
        "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        Transformer("final_layer", {"joint_blocks.*": JOINT}),
    ),
    _transformer(
        ("Krea 2",),
        "krea2.model.SingleStreamDiT",
        Transformer(
            "last",
            {"blocks.*": JOINT, "txtfusion.refiner_blocks.*": TEXT},
            patch="patch",
            image_start=lambda network, tokens, text_length, cells: text_length,
        ),
    ),
    _transformer(
        ("Anima",),
        "anima.model.Anima",
        Transformer("final_layer", {"blocks.*.cross_attn": CROSS}, patch="patch_spatial"),
    ),
    _transformer(
        ("Cosmos Predict2",),
        "cosmos.predict2.MiniTrainDIT",
        Transformer("final_layer", {"blocks.*.cross_attn": CROSS}, patch="patch_spatial"),
    ),
    _transformer(
        ("Wan",), "wan.model.WanModel", Transformer("head", {"blocks.*.cross_attn": CROSS})
    ),
)


def compose_family(model: Any, mode: str) -> ComposeFamily:
    """Return the row of a MODEL's network; ValueError for a network without one, and for a mode
    that it has not.
    """
    family = known_family(model, NODE, [row.family for row in FAMILIES])
    row = next(row for row in FAMILIES if row.family is family)
    if mode not in row.modes:
        raise ValueError(
            f"the mode '{mode}' is not for {' and '.join(family.names)}. "
            f"Set mode to {' or '.join(row.modes)}."
        )
    return row
