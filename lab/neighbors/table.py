"""The host's nodes that take part in a sampling: patches of models, guiders, hooks and samplers.

They are listed from the running host, so a node that a new version brings is in no table and the
test of this fails until somebody tries it.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MODEL, GUIDER, HOOKS, SAMPLER = "MODEL", "GUIDER", "HOOKS", "SAMPLER"
KINDS = (MODEL, GUIDER, HOOKS, SAMPLER)

VIDEO = "for video models"
OTHER_NETWORK = "for a network that can not compose, or needs a file of another family"
MERGES = "merges weights before a sampling, as ModelMergeSimple does"
NEEDS_A_FILE = "needs a file that does not come with the host or the pack"
SLOW = "compiles for minutes on a CPU"


@dataclass(frozen=True)
class Values:
    """The inputs of one node that are not its defaults."""

    inputs: Mapping[str, Any]

    def __init__(self, **inputs: Any):
        object.__setattr__(self, "inputs", inputs)


DEFAULTS = Values()
LORA = Values(strength_model=0.8)
CHECKPOINT = Values(ckpt_name="vitruvian_mini.safetensors", strength_model=0.3)

TRIED: dict[str, Values] = {
    # patches of a model
    "APG": DEFAULTS,
    "CFGNorm": DEFAULTS,
    "CFGOverride": Values(cfg=2.0),
    "CFGZeroStar": DEFAULTS,
    "DifferentialDiffusion": DEFAULTS,
    "EasyCache": Values(reuse_threshold=3.0, start_percent=0.0, end_percent=1.0),
    "Epsilon Scaling": Values(scaling_factor=1.01),
    "FreSca": Values(freq_cutoff=2),
    "FreeU": DEFAULTS,
    "FreeU_V2": DEFAULTS,
    "HyperTile": Values(tile_size=32, max_depth=2),
    "LatentApplyOperationCFG": DEFAULTS,
    "LazyCache": Values(reuse_threshold=3.0, start_percent=0.0, end_percent=1.0),
    "LoraLoader": LORA,
    "LoraLoaderBypass": LORA,
    "LoraLoaderBypassModelOnly": LORA,
    "LoraLoaderModelOnly": LORA,
    "Mahiro": DEFAULTS,
    "ModelAttentionBackend": DEFAULTS,
    "ModelComputeDtype": Values(dtype="fp32"),
    "ModelMergeAdd": DEFAULTS,
    "ModelMergeBlocks": Values(input=0.6, middle=0.5, out=0.7),
    "ModelMergeSD1": DEFAULTS,
    "ModelMergeSD2": DEFAULTS,
    "ModelMergeSDXL": DEFAULTS,
    "ModelMergeSimple": Values(ratio=0.6),
    "ModelSamplingContinuousEDM": Values(sampling="eps", sigma_max=14.6, sigma_min=0.03),
    "ModelSamplingContinuousV": Values(sigma_max=14.6, sigma_min=0.03),
    "ModelSamplingDiscrete": Values(sampling="v_prediction"),
    "MultiGPU_WorkUnits": DEFAULTS,
    "NAGuidance": DEFAULTS,
    "PatchModelAddDownscale": Values(block_number=2, end_percent=1.0),
    "PerpNeg": DEFAULTS,
    "PerturbedAttentionGuidance": DEFAULTS,
    "RenormCFG": DEFAULTS,
    "RescaleCFG": DEFAULTS,
    "SelectModelDevice": DEFAULTS,
    "SelfAttentionGuidance": Values(scale=0.5),
    "SkipLayerGuidanceDiT": Values(double_layers="0", single_layers="0", start_percent=0.0),
    "SkipLayerGuidanceDiTSimple": Values(double_layers="0", single_layers="0"),
    "TCFG": DEFAULTS,
    "TemporalScoreRescaling": DEFAULTS,
    "TomePatchModel": DEFAULTS,
    "UNetCrossAttentionMultiply": Values(q=1.1, k=0.9, v=1.2, out=0.9),
    "UNetSelfAttentionMultiply": Values(q=1.1, k=0.9, v=1.2, out=0.9),
    "UNetTemporalAttentionMultiply": Values(self_structural=1.1, cross_structural=0.9),
    "VideoLinearCFGGuidance": DEFAULTS,
    "VideoTriangleCFGGuidance": DEFAULTS,
    # guiders
    "BasicGuider": DEFAULTS,
    "CFGGuider": Values(cfg=4.0),
    "DualCFGGuider": Values(cfg_conds=4.0, cfg_cond2_negative=3.0),
    "DualModelGuider": Values(cfg=4.0),
    "PerpNegGuider": Values(cfg=4.0),
    # hooks
    "CombineHooks2": DEFAULTS,
    "CombineHooks4": DEFAULTS,
    "CombineHooks8": DEFAULTS,
    "CreateHookLora": LORA,
    "CreateHookLoraModelOnly": LORA,
    "CreateHookModelAsLora": CHECKPOINT,
    "CreateHookModelAsLoraModelOnly": CHECKPOINT,
    "SetHookKeyframes": DEFAULTS,
    # samplers
    "KSamplerSelect": Values(sampler_name="dpmpp_2m"),
    "SamplerDPMAdaptative": Values(rtol=0.5, atol=0.5),
    "SamplerDPMPP_2M_SDE": Values(noise_device="cpu"),
    "SamplerDPMPP_2S_Ancestral": DEFAULTS,
    "SamplerDPMPP_3M_SDE": Values(noise_device="cpu"),
    "SamplerDPMPP_SDE": Values(noise_device="cpu"),
    "SamplerER_SDE": DEFAULTS,
    "SamplerEulerAncestral": DEFAULTS,
    "SamplerEulerAncestralCFGPP": DEFAULTS,
    "SamplerEulerCFGpp": DEFAULTS,
    "SamplerLCM": DEFAULTS,
    "SamplerLMS": DEFAULTS,
    "SamplerSASolver": Values(use_pece=False, simple_order_2=False),
    "SamplerSEEDS2": DEFAULTS,
}

ON_TRANSFORMERS: dict[str, Values] = {  # tried on these only
    "FluxKVCache": DEFAULTS,
    "ModelNoiseScale": Values(noise_scale=1.1),
    "ModelSamplingAuraFlow": DEFAULTS,
    "ModelSamplingFlux": Values(max_shift=2.0),
    "ModelSamplingSD3": DEFAULTS,
    "ScaleROPE": Values(scale_x=4.0, scale_y=0.3, shift_x=20.0),
    "SkipLayerGuidanceSD3": Values(layers="0", start_percent=0.0),
}

WITH_A_UNETS_FILE = {"CreateHookModelAsLora", "CreateHookModelAsLoraModelOnly"}
COMPARES_CHUNKS = {  # or may do it: couple refuses these
    "NAGuidance", "HyperTile", "joint_attention_by_chunk", "tiled_self_attention",
}  # fmt: skip
IDLE_ON_TRANSFORMERS = {  # change nothing on tiny ones, or can not be sampled without people either
    "CFGGuider", "CombineHooks2", "CombineHooks4", "CombineHooks8", "DifferentialDiffusion",
    "FluxKVCache", "FreeU", "FreeU_V2", "HyperTile", "ModelAttentionBackend", "ModelComputeDtype",
    "ModelMergeSD1", "ModelMergeSD2", "ModelMergeSDXL", "MultiGPU_WorkUnits",
    "PatchModelAddDownscale", "PerturbedAttentionGuidance", "SamplerEulerCFGpp",
    "ScaleROPE", "SelectModelDevice", "SelfAttentionGuidance", "TomePatchModel",
    "UNetCrossAttentionMultiply",
    "UNetSelfAttentionMultiply", "UNetTemporalAttentionMultiply", "attention_couple",
    "attention_output_by_chunk", "block_patches", "copied_options", "guidance_in_attention",
    "replaced_cross_attention", "scaled_values", "tiled_self_attention",
}  # fmt: skip

NOT_TRIED: dict[str, str] = {
    "ARVideoI2V": VIDEO,
    "AnimaLLLiteApply": OTHER_NETWORK,
    "ChromaRadianceOptions": OTHER_NETWORK,
    "ContextWindowsManual": VIDEO,
    "HiDreamO1PatchSeamSmoothing": OTHER_NETWORK,
    "HypernetworkLoader": NEEDS_A_FILE,
    "LTXVContextWindows": VIDEO,
    "LTXVDualCFGGuider": VIDEO,
    "LTXVModalityGuidance": VIDEO,
    "LTXVReferenceAudio": VIDEO,
    "LTXVSpatioTemporalGuidance": VIDEO,
    "LoraModelLoader": "loads what the host's trainer has trained",
    "MiniMaxH3SigmaShift": VIDEO,
    "ModelMergeAuraflow": MERGES,
    "ModelMergeCosmos14B": VIDEO,
    "ModelMergeCosmos7B": VIDEO,
    "ModelMergeCosmosPredict2_14B": MERGES,
    "ModelMergeCosmosPredict2_2B": MERGES,
    "ModelMergeFlux1": MERGES,
    "ModelMergeKrea2": MERGES,
    "ModelMergeLTXV": VIDEO,
    "ModelMergeMochiPreview": VIDEO,
    "ModelMergeQwenImage": MERGES,
    "ModelMergeSD35_Large": MERGES,
    "ModelMergeSD3_2B": MERGES,
    "ModelMergeSubtract": "leaves a difference of models, which is no network to sample",
    "ModelMergeWAN2_1": VIDEO,
    "ModelSamplingLTXV": VIDEO,
    "ModelSamplingStableCascade": OTHER_NETWORK,
    "QwenImageDiffsynthControlnet": OTHER_NETWORK,
    "SUPIRApply": NEEDS_A_FILE,
    "SamplerARVideo": VIDEO,
    "SamplerLCMUpscale": "changes the size of the latent, which no control and no mask follows",
    "TorchCompileModel": SLOW,
    "TrainLoraNode": "trains, and samples nothing",
    "TripoSplatSamplingPreview": OTHER_NETWORK,
    "USOStyleReference": OTHER_NETWORK,
    "VOIDSampler": VIDEO,
    "WanAnimate2Cache": VIDEO,
    "WanContextWindowsManual": VIDEO,
    "WanInfiniteTalkToVideo": VIDEO,
    "WanUni3CControlnetApply": VIDEO,
    "ZImageFunControlnet": OTHER_NETWORK,
    "wanBlockSwap": VIDEO,
}


@lru_cache(maxsize=1)
def host_nodes() -> dict[str, Any]:
    """Load the host's own nodes, without other packs and partners' nodes: id -> class."""
    import nodes

    asyncio.run(nodes.init_extra_nodes(init_custom_nodes=False, init_api_nodes=False))
    return dict(nodes.NODE_CLASS_MAPPINGS)


def input_types(node: Any) -> dict[str, Any]:
    """Return the type of every input of a node; a list of choices is a COMBO."""
    groups = node.INPUT_TYPES()
    return {
        name: "COMBO" if isinstance(spec[0], list) else spec[0]
        for group in ("required", "optional")
        for name, spec in groups.get(group, {}).items()
    }


def kind_of(node: Any) -> str | None:
    """Say which part a node takes in a sampling; None for all others."""
    outputs = [str(output) for output in node.RETURN_TYPES]
    if MODEL in outputs:
        return MODEL if MODEL in input_types(node).values() else None
    return next((kind for kind in KINDS if kind in outputs), None)


def sampling_nodes() -> dict[str, str]:
    """List the host's own nodes that take part in a sampling: id -> kind."""
    kinds = {name: kind_of(node) for name, node in host_nodes().items()}
    return {
        name: kind
        for name, kind in sorted(kinds.items())
        if kind and not name.startswith("Vitruvian")
    }


def transformer_nodes() -> list[str]:
    """List the host's nodes that are tried beside people on transformers."""
    tried = (TRIED.keys() | ON_TRANSFORMERS.keys()) - WITH_A_UNETS_FILE
    return [name for name in sampling_nodes() if name in tried]


def run_node(name: str, make: Mapping[str, Callable[[], Any]], **wires: Any) -> tuple[Any, ...]:
    """Run one of the host's nodes with the table's values and these wires.

    What remains are the inputs' defaults, or what `make` gives for their type. Returns its outputs.
    """
    node = host_nodes()[name]
    values = {**(TRIED | ON_TRANSFORMERS)[name].inputs, **wires}
    groups = node.INPUT_TYPES()
    for group in ("required", "optional"):
        for key, spec in groups.get(group, {}).items():
            if key in values:
                continue
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list):
                values[key] = options.get("default", spec[0][0])
            elif "default" in options:
                values[key] = options["default"]
            elif "options" in options:
                values[key] = options["options"][0]
            elif spec[0] in make and (group == "required" or spec[0] == MODEL):
                values[key] = make[spec[0]]()
    names = input_types(node)
    result = getattr(node(), node.FUNCTION)(**{k: v for k, v in values.items() if k in names})
    return getattr(result, "result", result)
