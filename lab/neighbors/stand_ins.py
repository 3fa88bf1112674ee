"""Stand-ins for what other packs put on a model, one per kind, written for these tests.

Each is (MODEL) -> MODEL. They reckon as the packs of their kind do: rows are images x chunks, the
first positive and the first negative chunk, texts of a certain form, or a copy of all options.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor


def attention_output_by_chunk(model: Any) -> Any:
    """Scale each chunk's attention by its kind, as adapters with a strength for
    positive and negative do.
    """

    def patch(n: Tensor, extra: dict) -> Tensor:
        kinds = extra["cond_or_uncond"]
        rows = n.unflatten(0, (len(kinds), -1))
        scale = torch.tensor([1.2 if kind == 0 else 0.9 for kind in kinds]).to(n)
        return (rows * scale.view(-1, *(1,) * (rows.dim() - 1))).flatten(0, 1)

    model = model.clone()
    model.set_model_attn2_output_patch(patch)
    return model


def guidance_in_attention(model: Any) -> Any:
    """Push the first positive chunk away from the first negative one, as NAG does."""
    model = model.clone()
    model.set_model_attn2_output_patch(partial(_push_positive_away, strength=0.5))
    return model


def _push_positive_away(n: Tensor, extra: dict, strength: float) -> Tensor:
    kinds = extra["cond_or_uncond"]
    if not {0, 1} <= set(kinds):
        return n
    rows = list(n.chunk(len(kinds)))
    positive, negative = kinds.index(0), kinds.index(1)
    rows[positive] = rows[positive] + strength * (rows[positive] - rows[negative])
    return torch.cat(rows)


def scaled_values(model: Any) -> Any:
    """Change the values of cross-attention and not its keys, as NegPip does."""

    def patch(n: Tensor, keys: Tensor, values: Tensor, extra: dict) -> tuple:
        weights = torch.linspace(1.5, -0.5, values.shape[1]).to(values)
        return n, keys, values * weights[:, None]

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model


def tiled_self_attention(model: Any) -> Any:
    """Halve the images for self-attention and put them together again, as HyperTile does."""
    halves = 2

    def split(n: Tensor, keys: Tensor, values: Tensor, extra: dict) -> tuple:
        tiles = n.unflatten(1, (halves, -1)).flatten(0, 1)
        return tiles, tiles, tiles

    def join(n: Tensor, extra: dict) -> Tensor:
        return n.unflatten(0, (-1, halves)).flatten(1, 2)

    model = model.clone()
    model.set_model_attn1_patch(split)
    model.set_model_attn1_output_patch(join)
    return model


def attention_couple(model: Any) -> Any:
    """Multiply the rows before cross-attention and take their mean behind it, as couples do."""

    def multiply(n: Tensor, keys: Tensor, values: Tensor, extra: dict) -> tuple:
        times = (2, 1, 1)
        return n.repeat(times), keys.repeat(times), 0.9 * values.repeat(times)

    def mean(n: Tensor, extra: dict) -> Tensor:
        return n.unflatten(0, (2, -1)).mean(0)

    model = model.clone()
    model.set_model_attn2_patch(multiply)
    model.set_model_attn2_output_patch(mean)
    return model


def replaced_cross_attention(model: Any) -> Any:
    """Add attention to tokens of an image in every block's own slot, as IPAdapter does."""
    from comfy.ldm.modules.attention import optimized_attention

    def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
        kinds, heads = extra["cond_or_uncond"], extra["n_heads"]
        g = torch.Generator().manual_seed(q.shape[-1])
        tokens = torch.randn(len(kinds), 4, q.shape[-1], generator=g).to(q)
        tokens = (
            tokens[:1] * torch.tensor([float(kind == 0) for kind in kinds]).to(q)[:, None, None]
        )
        tokens = tokens.repeat_interleave(len(q) // len(kinds), 0)
        added = optimized_attention(q, tokens, tokens, heads)
        return optimized_attention(q, k, v, heads) + 0.3 * added

    model = model.clone()
    for block in (
        [("input", n) for n in range(12)] + [("middle", 0)] + [("output", n) for n in range(12)]
    ):
        model.set_model_attn2_replace(attend, *block)
    return model


def overridden_attention(model: Any) -> Any:
    """Take the one slot around every attention kernel."""

    def override(function: Callable, *args: Any, **kwargs: Any) -> Any:
        return 0.95 * function(*args, **kwargs)

    model = model.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    return model


def block_patches(model: Any) -> Any:
    """Change features between blocks."""

    def into(h: Tensor, options: dict) -> Tensor:
        return h * 1.02

    def out_of(h: Tensor, skip: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        return h * 0.98, skip * 1.01

    model = model.clone()
    model.set_model_input_block_patch(into)
    model.set_model_output_block_patch(out_of)
    return model


def wrapped_call(model: Any) -> Any:
    """Take the one slot around the network, and copy what it gets."""

    def call(apply_model: Callable, arguments: dict) -> Tensor:
        conds = copy.deepcopy(arguments["c"])
        return 0.97 * apply_model(arguments["input"], arguments["timestep"], **conds)

    model = model.clone()
    model.set_model_unet_function_wrapper(call)
    return model


def noisy_texts(model: Any) -> Any:
    """Add noise to the texts while sampling, as CADS does."""

    def call(apply_model: Callable, arguments: dict) -> Tensor:
        conds = dict(arguments["c"])
        text = conds["c_crossattn"]
        g = torch.Generator().manual_seed(text.shape[1])
        noise = torch.randn(text.shape[1:], generator=g).to(text)
        conds["c_crossattn"] = text + 0.2 * noise
        return apply_model(arguments["input"], arguments["timestep"], **conds)

    model = model.clone()
    model.set_model_unet_function_wrapper(call)
    return model


def copied_options(model: Any) -> Any:
    """Deep-copy conditionings and options in the middle of a sampling."""
    from comfy.patcher_extension import WrappersMP

    def predict(executor: Any, x: Tensor, timestep: Tensor, options: dict, *args: Any, **kw: Any):
        guider = executor.class_obj
        conds = guider.conds
        guider.conds = copy.deepcopy(conds)
        try:
            return executor(x, timestep, copy.deepcopy(options), *args, **kw)
        finally:
            guider.conds = conds

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "stand-in", predict)
    return model


def network_wrapper(model: Any) -> Any:
    """Wrap the network itself, inside all that packs wrap around its preparation."""
    from comfy.patcher_extension import WrappersMP

    def forward(
        executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *args: Any, **kw: Any
    ):
        return executor(x, timesteps, 1.1 * context, *args, **kw)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "stand-in", forward)
    return model


def post_guidance(model: Any) -> Any:
    """Evaluate the network once more behind guidance, with other options, as PAG does."""
    import comfy.samplers

    def again(arguments: dict) -> Tensor:
        options = {**arguments["model_options"]}
        weak = comfy.samplers.calc_cond_batch(
            arguments["model"], [arguments["cond"]], arguments["input"], arguments["sigma"], options
        )[0]
        return arguments["denoised"] + 0.1 * (arguments["cond_denoised"] - 0.9 * weak)

    model = model.clone()
    model.set_model_sampler_post_cfg_function(again)
    return model


def tokens_by_chunk(model: Any) -> Any:
    """Scale the image's tokens of each chunk by its kind, before the blocks of a transformer and
    between them.
    """

    def patch(arguments: dict) -> dict:
        kinds = arguments["transformer_options"]["cond_or_uncond"]
        scale = torch.tensor([1.05 if kind == 0 else 0.97 for kind in kinds])
        img = arguments["img"]
        rows = scale.repeat_interleave(len(img) // len(kinds)).to(img)
        return {**arguments, "img": img * rows.view(-1, *(1,) * (img.dim() - 1))}

    model = model.clone()
    for kind in ("post_input", "noise_refiner", "double_block"):
        model.set_model_patch(patch, kind)
    return model


def replaced_blocks(model: Any) -> Any:
    """Take every block's own slot in a transformer, and weaken what the block changes."""

    def run(arguments: dict, extra: dict) -> dict:
        tokens = arguments["img"].clone()  # some blocks write into it
        out = extra["original_block"](arguments)
        return {**out, "img": 0.9 * out["img"] + 0.1 * tokens}

    model = model.clone()
    for kind in ("double_block", "single_block"):
        for number in range(2):
            model.set_model_patch_replace(run, "dit", kind, number)
    return model


def joint_attention_by_chunk(model: Any) -> Any:
    """Push the first positive chunk away from the first negative one in joint attention."""
    model = model.clone()
    model.set_model_attn1_output_patch(partial(_push_positive_away, strength=0.3))
    return model


STAND_INS: dict[str, Callable[[Any], Any]] = {
    function.__name__: function
    for function in (
        attention_output_by_chunk,
        guidance_in_attention,
        scaled_values,
        tiled_self_attention,
        attention_couple,
        replaced_cross_attention,
        overridden_attention,
        block_patches,
        wrapped_call,
        noisy_texts,
        copied_options,
        network_wrapper,
        post_guidance,
        tokens_by_chunk,
        replaced_blocks,
        joint_attention_by_chunk,
    )
}
