"""The network families on which people can be composed: one row of FAMILIES each; and why those of
the host's other models can not.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ..model_names import MODEL_NAMES
from ..sampling import UNET, Family, known_family
from . import unets
from .calls import NetworkCall
from .network_layouts import Transformer
from .next_dit import NEXT_DIT
from .streams import COUPLE, EXACT, LAYERS, NODE
from .text_layouts import counted, refined_alone, rotated_by_blocks
from .text_masks import CROSS, IMAGE, IMAGE_FIRST, JOINT, REST, TEXT, TEXTS, TEXTS_FIRST
from .transformers import run


class ComposeFamily(NamedTuple):
    """One family of networks that can compose."""

    family: Family
    run: Callable[[NetworkCall], Tensor]  # a call of the host -> the rows of its chunks
    modes: tuple[str, ...]
    why_not_couple: str = ""  # where that mode is missing
    prompt_reader: str = ""  # a part of the network that reads the prompts before the sampling
    # in which people can have reference images, if the network reads any on this host
    reference_modes: tuple[str, ...] = ()


def _transformer(
    names: tuple[str, ...],
    network: str,
    transformer: Transformer,
    models: tuple[str, ...] = (),
    why_not_couple: str = "",
    prompt_reader: str = "",
) -> ComposeFamily:
    family = Family(names, f"comfy.ldm.{network}", models)
    modes = (EXACT,) if why_not_couple else (EXACT, COUPLE)
    reference_modes = (EXACT, COUPLE) if transformer.positions else (EXACT,)
    run_family = partial(run, transformer=transformer)
    return ComposeFamily(family, run_family, modes, why_not_couple, prompt_reader, reference_modes)


def _ends_with_image(_: Any, tokens: int, __: int, cells: int) -> int:
    """The image's tokens are the last ones that the head reads."""
    return tokens - cells


_FLUX_BLOCKS = {"double_blocks.*": JOINT, "single_blocks.*": JOINT}
_FLUX_MODULATIONS = {
    "double_blocks.*.img_mod.lin": IMAGE,
    "double_blocks.*.txt_mod.lin": TEXTS,
    "single_blocks.*.modulation.lin": JOINT,
    "double_stream_modulation_img.lin": IMAGE,
    "double_stream_modulation_txt.lin": TEXTS,
    "single_stream_modulation.lin": JOINT,
    "final_layer.adaLN_modulation": IMAGE,
}

FAMILIES = (
    ComposeFamily(UNET, unets.run, (EXACT, LAYERS, COUPLE)),
    _transformer(
        ("LongCat-Image",),  # the image lies behind the text on the axes of its rows and columns
        "flux.model.Flux",
        Transformer(
            "final_layer",
            _FLUX_BLOCKS,
            lay_texts=counted("pe_embedder", before_image=(1, 2)),
            modulations=_FLUX_MODULATIONS,
            positions="pe_embedder",
        ),
        models=("LongCatImage",),
    ),
    _transformer(
        ("Flux.1", "Flux.2", "Ovis-Image"),
        "flux.model.Flux",
        Transformer(
            "final_layer",
            _FLUX_BLOCKS,
            lay_texts=counted("pe_embedder"),
            modulations=_FLUX_MODULATIONS,
            positions="pe_embedder",
        ),
    ),
    _transformer(("Chroma",), "chroma.model.Chroma", Transformer("final_layer", _FLUX_BLOCKS)),
    _transformer(
        ("Chroma Radiance",),  # small networks for each patch of pixels read the last block
        "chroma_radiance.model.ChromaRadiance",
        Transformer(
            "single_blocks.*",
            _FLUX_BLOCKS,
            image_start=_ends_with_image,
            lay_texts=counted("pe_embedder"),
        ),
    ),
    _transformer(
        ("Qwen-Image",),
        "qwen_image.model.QwenImageTransformer2DModel",
        Transformer(
            "norm_out",
            {"transformer_blocks.*": JOINT},
            lay_texts=counted("pe_embedder"),
            modulations={
                "transformer_blocks.*.img_mod": IMAGE,
                "transformer_blocks.*.txt_mod": TEXTS,
                "norm_out.linear": IMAGE,
            },
            positions="pe_embedder",
        ),
    ),
    _transformer(
        ("Mage-Flow",),
        "mage_flow.model.MageFlowTransformer2DModel",
        Transformer("norm_out", {"transformer_blocks.*": JOINT}, positions="pe_embedder"),
    ),
    _transformer(("Z-Image", "Lumina 2", "NewBie"), "lumina.model.NextDiT", NEXT_DIT),
    _transformer(
        ("Z-Image in pixels",),  # a small network for each patch of pixels reads the last block
        "lumina.model.NextDiTPixelSpace",
        NEXT_DIT._replace(head="layers.*", modulations={}),
    ),
    _transformer(
        ("SD3", "SD3.5"),
        "modules.diffusionmodules.mmdit.OpenAISignatureMMDITWrapper",
        Transformer(
            "final_layer",
            {"joint_blocks.*": JOINT},
            modulations={
                "joint_blocks.*.x_block.adaLN_modulation": IMAGE,
                "joint_blocks.*.context_block.adaLN_modulation": TEXTS,
                "final_layer.adaLN_modulation": IMAGE,
            },
        ),
    ),
    _transformer(
        ("Krea 2",),
        "krea2.model.SingleStreamDiT",
        Transformer(
            "last",
            {"blocks.*": JOINT, "txtfusion.refiner_blocks.*": TEXT},
            patch="patch",
            image_start=lambda network, tokens, text_length, cells: text_length,
            positions="pe_embedder",
        ),
    ),
    _transformer(
        ("Anima",),
        "anima.model.Anima",
        Transformer("final_layer", {"blocks.*.cross_attn": CROSS}, patch="patch_spatial"),
        prompt_reader="llm_adapter",
    ),
    _transformer(
        ("Cosmos Predict2",),
        "cosmos.predict2.MiniTrainDIT",
        Transformer("final_layer", {"blocks.*.cross_attn": CROSS}, patch="patch_spatial"),
    ),
    _transformer(
        ("Wan",),
        "wan.model.WanModel",
        Transformer("head", {"blocks.*.cross_attn": CROSS}),
        models=("WAN21", "WAN22"),
    ),
    _transformer(
        ("Wan VACE",),
        "wan.model.VaceWanModel",
        Transformer("head", {"blocks.*.cross_attn": CROSS, "vace_blocks.*.cross_attn": CROSS}),
    ),
    _transformer(
        ("OmniGen2",),
        "omnigen.omnigen2.OmniGen2Transformer2DModel",
        Transformer(
            "norm_out",
            {"context_refiner.*": TEXT, "layers.*": JOINT},
            image_start=_ends_with_image,
            lay_texts=counted("rope_embedder.rope_embedder", before_image=(0,)),
            order=lambda network: (TEXTS, REST, IMAGE),
        ),
    ),
    _transformer(
        ("Boogu",),
        "boogu.model.BooguTransformer2DModel",
        Transformer(
            "norm_out",
            {
                "context_refiner.*": TEXT,
                "double_stream_layers.*.img_instruct_attn": JOINT,
                "single_stream_layers.*": JOINT,
            },
            image_start=_ends_with_image,
            lay_texts=counted("rope_embedder.rope_embedder", before_image=(0,)),
            order=lambda network: (TEXTS, REST, IMAGE),
        ),
    ),
    _transformer(
        ("Ideogram 4",),
        "ideogram4.model.Ideogram4Transformer2DModel",
        Transformer(
            "final_layer",
            {"layers.*": JOINT},
            patch=1,
            image_start=_ends_with_image,
            lay_texts=rotated_by_blocks("layers", 2),
        ),
    ),
    _transformer(
        ("HiDream",),
        "hidream.model.HiDreamImageTransformer2DModel",
        Transformer(
            "final_layer",
            {"double_stream_blocks.*": JOINT, "single_stream_blocks.*": JOINT},
            order=lambda network: IMAGE_FIRST,
            gathers_rows=True,
        ),
    ),
    _transformer(
        ("HunyuanImage 2.1",),
        "hunyuan_video.model.HunyuanVideo",
        Transformer(
            "final_layer",
            _FLUX_BLOCKS,
            lay_texts=refined_alone("txt_in"),
            order=lambda network: (
                IMAGE_FIRST  # on older hosts
                if getattr(network.double_blocks[0], "flipped_img_txt", False)
                else TEXTS_FIRST
            ),
        ),
        models=("HunyuanImage21", "HunyuanImage21Refiner"),
    ),
    _transformer(
        ("Lens",),
        "lens.model.LensTransformer2DModel",
        Transformer(
            "norm_out",
            {"transformer_blocks.*": JOINT},
            patch=1,
            lay_texts=counted("pos_embed", image_first=True),
            order=lambda network: IMAGE_FIRST,
        ),
    ),
    _transformer(
        ("JoyImage",),
        "joyimage.model.JoyImageTransformer3DModel",
        Transformer("norm_out", {"double_blocks.*": JOINT}, order=lambda network: IMAGE_FIRST),
    ),
    _transformer(
        ("Kandinsky 5",),
        "kandinsky5.model.Kandinsky5",
        Transformer(
            "out_layer.out_layer",
            {
                "text_transformer_blocks.*": TEXT,
                "visual_transformer_blocks.*.cross_attention": CROSS,
            },
            lay_texts=counted("rope_embedder_1d"),
        ),
        models=("Kandinsky5Image",),
    ),
    _transformer(
        ("AuraFlow",),
        "aura.mmdit.MMDiT",
        Transformer(
            "final_linear",
            {"double_layers.*": JOINT, "single_layers.*": JOINT},
            order=lambda network: (REST, TEXTS, IMAGE),
            registers=lambda network: network.register_tokens.shape[1],
        ),
    ),
    _transformer(
        ("ERNIE-Image",),
        "ernie.model.ErnieImageModel",
        Transformer("final_norm", {}),
        why_not_couple="its attention can not be told where a prompt counts",
    ),
    _transformer(
        ("PixArt",),
        "pixart.pixartms.PixArtMS",
        Transformer("final_layer", {}, gathers_rows=True),
        why_not_couple="its attention can not be told where a prompt counts",
    ),
    _transformer(
        ("HunyuanDiT",),
        "hydit.models.HunYuanDiT",
        Transformer("final_layer", {}, gathers_rows=True),
        why_not_couple="it has room for one prompt only",
    ),
)

_VIDEO = "makes videos, and people are composed in images"
_SHAPES = "makes 3D shapes"
_SOUND = "makes sound"
_READS = "reads images and makes none"
_ENLARGES = "enlarges an image that is there; compose people in the model that makes it"
# the host's classes of MODELs that make no images from prompts or read these in a way of their own
REFUSED = {
    **dict.fromkeys(("SVD_img2vid", "GenmoMochi", "LTXV", "LTXAV", "CosmosVideo"), _VIDEO),
    **dict.fromkeys(("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"), _VIDEO),
    **dict.fromkeys(("HunyuanVideo15", "Kandinsky5", "CogVideoX", "MiniMaxH3"), _VIDEO),
    **dict.fromkeys(("WAN21_CausalAR", "WAN21_Camera", "WAN21_HuMo", "WAN22_S2V"), _VIDEO),
    **dict.fromkeys(("WAN22_Animate", "WAN_Animate2", "WAN22_WanDancer"), _VIDEO),
    **dict.fromkeys(("WAN21_SCAIL", "WAN21_SCAIL2"), _VIDEO),
    **dict.fromkeys(("Trellis2", "Hunyuan3Dv2", "Hunyuan3Dv2_1", "TripoSplat"), _SHAPES),
    **dict.fromkeys(("StableAudio1", "StableAudio3", "ACEStep", "ACEStep15"), _SOUND),
    "MiniMaxMusic3": _SOUND,
    **dict.fromkeys(("WAN21_FlowRVS", "RT_DETR_v4", "DepthAnything3", "SAM3", "Lotus"), _READS),
    **dict.fromkeys(("SV3D_u", "SV3D_p", "Stable_Zero123"), "turns an object and reads no prompt"),
    **dict.fromkeys(("SeedVR2", "PiD", "StableCascade_B", "SD_X4Upscaler"), _ENLARGES),
    "HunyuanVideo15_SR_Distilled": _VIDEO,
    "StableCascade_C": "blends its prompt with other inputs before it reads it",
    "PixelDiTT2I": "works on single pixels behind the blocks that read the prompt",
    "HiDreamO1": "reads its prompt like a language model, and keeps what it has read",
}


def compose_family(model: Any, mode: str) -> ComposeFamily:
    """Return the row of a MODEL's network; ValueError for a network without one, and for a mode
    that it has not.
    """
    model_class = type(model.model).__name__
    if model_class in REFUSED:
        raise ValueError(
            f"this model is {MODEL_NAMES[model_class]}, which {REFUSED[model_class]}. Connect a "
            "model that makes images from prompts, such as Z-Image, Qwen-Image, Flux or SDXL, to "
            "'model'."
        )
    family = known_family(model, NODE, [row.family for row in FAMILIES])
    row = next(row for row in FAMILIES if row.family is family)
    if mode not in row.modes:
        why = f": {row.why_not_couple}" if mode == COUPLE else ""
        raise ValueError(
            f"the mode '{mode}' is not for {' and '.join(family.names)}{why}. "
            f"Set mode to {' or '.join(row.modes)}."
        )
    return row
