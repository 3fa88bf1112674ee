"""Make networks small whose sizes ComfyUI takes for granted.

ComfyUI reads most sizes from the file of weights. The others would make files of billions of
numbers: here the constructors get smaller ones. Loaders, detection and forward passes stay as they
are. A server narrows itself if its custom_nodes have this file and a line that enters `narrow()`.
"""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

NODE_CLASS_MAPPINGS: dict[str, type] = {}

# module and class: argument of the constructor: what ComfyUI takes for granted, and ours
NETWORKS: dict[tuple[str, str], dict[str, tuple[Any, Any]]] = {
    ("comfy.ldm.flux.model", "Flux"): {  # fixed in v0.3.64 only
        "hidden_size": (3072, 128),
        "num_heads": (24, 1),
        "context_in_dim": (4096, 64),
    },
    ("comfy.ldm.lumina.model", "NextDiT"): {
        "n_refiner_layers": (2, 1),
        "ffn_dim_multiplier": (8 / 3, 0.02),
    },
    ("comfy.ldm.lumina.controlnet", "ZImage_Control"): {"ffn_dim_multiplier": (8 / 3, 0.02)},
    ("comfy.ldm.qwen_image.model", "QwenImageTransformer2DModel"): {
        "num_attention_heads": (24, 1),
        "joint_attention_dim": (3584, 64),
    },
    ("comfy.ldm.modules.sdpose", "HeatmapHead"): {
        "deconv_out_channels": ((640,), (8,)),
        "conv_out_channels": ((640,), (8,)),
        "input_size": ((768, 1024), (192, 256)),
    },
    ("comfy.ldm.krea2.model", "SingleStreamDiT"): {"multiplier": (4, 1)},
}
# class of a text encoder: values of its config
TEXT_ENCODERS: dict[str, dict[str, int]] = {
    "CLIPTextModel": {"num_hidden_layers": 3},
    "T5": {"num_layers": 2, "d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4},
    "Qwen25_7BVLI": {
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
    },
    "Qwen3_4B": {"intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1},
    "Qwen3VL_": {"intermediate_size": 64, "num_attention_heads": 1, "num_key_value_heads": 1},
    "Qwen3_06B": {"num_hidden_layers": 2},
}


def _narrow_network(network: type, sizes: dict[str, tuple[Any, Any]]) -> Callable:
    """Wrap the constructor of a network; those of ControlNets built on it pass through, too."""
    build = network.__init__

    @functools.wraps(build)
    def build_narrow(self, *positional, **arguments):
        for name, (granted, ours) in sizes.items():
            if arguments.get(name, granted) == granted:
                arguments[name] = ours
        build(self, *positional, **arguments)

    return build_narrow


def _narrow_text_encoder(encoder: type) -> Callable:
    """Wrap the constructor of ComfyUI's class around every text encoder."""
    build = encoder.__init__
    clip = importlib.import_module("comfy.clip_model").CLIPTextModel

    @functools.wraps(build)
    def build_narrow(self, *positional, model_class=clip, **arguments):
        sizes = TEXT_ENCODERS[model_class.__name__]
        arguments["model_class"] = lambda config, *rest: model_class({**config, **sizes}, *rest)
        build(self, *positional, **arguments)

    return build_narrow


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Narrow the classes of this process inside the block."""
    with contextlib.ExitStack() as stack:
        for (module, name), sizes in NETWORKS.items():
            try:
                network = getattr(importlib.import_module(module), name)
            except ImportError:
                continue  # a family that an older ComfyUI does not know
            stack.enter_context(
                mock.patch.object(network, "__init__", _narrow_network(network, sizes))
            )
        encoder = importlib.import_module("comfy.sd1_clip").SDClipModel
        stack.enter_context(mock.patch.object(encoder, "__init__", _narrow_text_encoder(encoder)))
        yield
