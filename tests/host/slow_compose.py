"""Composition of people on a transformer the slow way: a plain forward for each person, their
tokens mixed place by place at the head. Written from the method, apart from what it checks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

TEXT = (
    "cross_attn",
    "pooled_output",
    "attention_mask",
    "attention_mask_img_shape",
    "t5xxl_ids",
    "t5xxl_weights",
)


class Layout(NamedTuple):
    """Where a network's head is, and where the image's tokens are in what the head reads."""

    head: str
    after_text: bool = False  # the image's tokens come behind the text's
    last: bool = False  # they are the last ones
    patch: str = "patch_size"  # what the network calls the side of a token, in latent cells


LAYOUTS = {
    "Flux": Layout("final_layer"),
    "Chroma": Layout("final_layer"),
    "QwenImageTransformer2DModel": Layout("norm_out"),
    "NextDiT": Layout("final_layer", last=True),
    "OpenAISignatureMMDITWrapper": Layout("final_layer"),
    "SingleStreamDiT": Layout("last", after_text=True, patch="patch"),
    "Anima": Layout("final_layer", patch="patch_spatial"),
    "WanModel": Layout("head"),
    "MageFlowTransformer2DModel": Layout("norm_out"),
    "JoyImageTransformer3DModel": Layout("norm_out"),
    "OmniGen2Transformer2DModel": Layout("norm_out", last=True),
    "BooguTransformer2DModel": Layout("norm_out", last=True),
}


def layout_of(base: Any) -> Layout:
    """Return where the head of a model's network is."""
    return LAYOUTS[type(base.diffusion_model).__name__]


def entry_of(conditioning: Sequence) -> dict[str, Any]:
    """Return the only entry of a CONDITIONING as the host keeps it while sampling."""
    ((text, entry),) = conditioning
    return {**entry, "cross_attn": text}


def with_text_of(entry: Mapping[str, Any], person: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with another one's text, what else it has, and behind its reference images
    those of the other one.
    """
    without_text = {key: value for key, value in entry.items() if key not in TEXT}
    changed = {**without_text, **{key: person[key] for key in TEXT if key in person}}
    if images := person.get("reference_latents"):
        changed["reference_latents"] = [*entry.get("reference_latents", []), *images]
        if "reference_latents_method" in person:
            changed["reference_latents_method"] = person["reference_latents_method"]
    return changed


def plain(base: Any, x: Tensor, sigma: Tensor, entry: Mapping[str, Any]) -> Tensor:
    """Denoise x [B, C, ..., h, w] as the plain model does it for one conditioning entry: with the
    host's control in it, and with the patches of blocks that a test put there.
    """
    conds = base.extra_conds(**{**entry, "device": x.device, "noise": x})
    values = {
        key: cond.process_cond(batch_size=len(x), device=x.device, area=None).cond
        for key, cond in conds.items()
    }
    options = {"cond_or_uncond": [0], "sigmas": sigma[:1], "patches": entry.get("patches", {})}
    control = entry.get("control")
    residuals = None if control is None else control.get_control(x, sigma, values, 1, options)
    return base.apply_model(x, sigma, control=residuals, transformer_options=options, **values)


@contextmanager
def _before(head: torch.nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While it lasts, the head reads what `change` makes of its tokens."""
    hook = head.register_forward_pre_hook(lambda _, inputs: (change(inputs[0]), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


def _image_start(
    network: Any, layout: Layout, entry: Mapping[str, Any], count: int, cells: int
) -> int:
    """Return the index of the image's first token among those that the head reads."""
    if layout.last:
        multiple = getattr(network, "pad_tokens_multiple", None) or 1
        return count - math.ceil(cells / multiple) * multiple
    return entry["cross_attn"].shape[1] if layout.after_text else 0


def composed(
    base: Any,
    x: Tensor,
    sigma: Tensor,
    entries: Sequence[Mapping[str, Any]],
    shares: Tensor,
    changed: Sequence[Any] = (),
) -> Tensor:
    """Denoise x for several people at once, each in their share of the image.

    Every person has a forward of their own up to the head. There the tokens of each place are
    mixed, and every person's head, which their pooled text modulates, goes on with them; the
    results are mixed once more. entries: the conditioning entry of each person. shares [people,
    frames, h, w] of each latent cell; one frame serves all of the batch. changed: the model of
    each person, where their weights differ.
    """
    network, bases = base.diffusion_model, changed or [base] * len(entries)
    layout = layout_of(base)
    heads = [getattr(base.diffusion_model, layout.head) for base in bases]
    patch = getattr(network, layout.patch)
    side = patch if isinstance(patch, int) else patch[-1]
    height, width = (math.ceil(cells / side) for cells in x.shape[-2:])
    share = torch.nn.functional.interpolate(shares, (height, width), mode="bilinear")
    everyone = range(len(entries))

    tokens: list[Tensor] = []
    for entry, one, head in zip(entries, bases, heads, strict=True):
        with _before(head, lambda features: tokens.append(features.clone()) or features):
            plain(one, x, sigma, entry)

    mixed = [features.clone() for features in tokens]
    flat = [features.view(len(x), -1, features.shape[-1]) for features in tokens]
    starts = [
        _image_start(network, layout, entry, features.shape[1], height * width)
        for entry, features in zip(entries, flat, strict=True)
    ]
    for image in range(len(x)):
        frame = image % share.shape[1]
        for place in range(height * width):
            of_person = [share[p, frame, place // width, place % width] for p in everyone]
            token = sum(of_person[p] * flat[p][image, starts[p] + place] for p in everyone)
            for p in everyone:
                rows = mixed[p].view(len(x), -1, token.shape[-1])
                rows[image, starts[p] + place] = token

    results = []
    for p in everyone:
        with _before(heads[p], lambda _, p=p: mixed[p]):
            results.append(plain(bases[p], x, sigma, entries[p]))
    output = torch.zeros_like(x)
    for image in range(len(x)):
        frame = image % share.shape[1]
        for row in range(x.shape[-2]):
            for column in range(x.shape[-1]):
                for p in everyone:
                    counts = share[p, frame, row // side, column // side]
                    output[image, ..., row, column] += counts * results[p][image, ..., row, column]
    return output
