"""Ways of the human prior's benchmark: prompts and a seed -> images, by the host's own nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...models.mini import IMAGE_SIZE
from ..recipes.human_prior import ABLATIONS, HUMAN_PRIOR, ablation_file
from ..recipes.lora import LORA
from . import host

BASE, PRIOR, LOW_RANK = MAIN_WAYS = "base", "human_prior", "lora"
STRENGTHS = (0.5, 1.5, 2.0)
BATCH = 20  # prompts generated at once
COMMAND = "python3 dev.py train mini human-prior-ablations --work FOLDER"

Generate = Callable[[Sequence[str], int], Tensor]  # B prompts and a seed -> [B,3,H,W]


def main_ways(loaded: host.Loaded) -> dict[str, Generate]:
    """Build the checkpoint as it is, with its prior, and with its LoRA of the same size."""
    import comfy.sd

    with torch.inference_mode():
        changed, _ = comfy.sd.load_lora_for_models(loaded.model, None, load_file(LORA), 1.0, 0)
    return {
        BASE: _plain(loaded, loaded.model),
        PRIOR: _with_prior(loaded, HUMAN_PRIOR),
        LOW_RANK: _plain(loaded, changed),
    }


def arms(loaded: host.Loaded) -> dict[str, Generate]:
    """Build the priors that are trained otherwise; ValueError, with the command that trains them,
    if one is missing.
    """
    return {name: _with_prior(loaded, file) for name, file in arm_files().items()}


def arm_files() -> dict[str, Path]:
    """List the files of the priors that are trained otherwise, as `arms` does."""
    files = {name: ablation_file(name) for name in ABLATIONS}
    if missing := [file.name for file in files.values() if not file.is_file()]:
        folder = next(iter(files.values())).parent
        raise ValueError(f"{folder} lacks {', '.join(missing)}: `{COMMAND}` trains them.")
    return files


def other_strengths(loaded: host.Loaded) -> dict[str, Generate]:
    """Build the prior at STRENGTHS."""
    return {f"strength_{value:g}": _with_prior(loaded, HUMAN_PRIOR, value) for value in STRENGTHS}


def _plain(loaded: host.Loaded, model: Any) -> Generate:
    def generate(prompts: Sequence[str], seed: int) -> Tensor:
        return _sample(loaded, model, host.text(loaded, *prompts), seed)

    return generate


def _with_prior(loaded: host.Loaded, file: Path, strength: float = 1.0) -> Generate:
    """Of prompts whose human-centric words stand at the same places."""
    model = patched(loaded, file, strength)

    def generate(prompts: Sequence[str], seed: int) -> Tensor:
        each = [encode_marked(loaded, prompt)[0] for prompt in prompts]
        positive = [[torch.cat([text for text, _ in each]), each[0][1]]]
        return _sample(loaded, model, positive, seed)

    return generate


def patched(loaded: host.Loaded, file: Path, strength: float = 1.0) -> Any:
    """Patch the checkpoint as Apply Human Prior does."""
    from ...host import human_prior as prior

    with torch.inference_mode():
        prior_weights = prior.load(file)
        stages = dict.fromkeys(prior.STAGES, strength)
        return prior.apply(
            loaded.model,
            prior_weights,
            prior.Settings(prior_weights.gamma, prior_weights.mask, stages, 0.0, 1.0),
        )


def encode_marked(loaded: host.Loaded, prompt: str) -> Any:
    """Encode a prompt as Encode Human Prompt does."""
    from ...host import human_prior as prior

    with torch.inference_mode():
        return prior.encode_prompt(loaded.clip, prompt, (), ())[0]


def _sample(loaded: host.Loaded, model: Any, positive: Any, seed: int) -> Tensor:
    latent = host.empty(IMAGE_SIZE, len(positive[0][0]))
    latent_out = host.sample(model, positive, host.text(loaded, ""), latent, seed)
    return host.decode(loaded, latent_out)


def group_alike(loaded: host.Loaded, prompts: Sequence[str]) -> list[list[int]]:
    """Find which prompts can be generated together, because the same tokens of them are marked:
    groups of BATCH rows at most.
    """
    from ...host import human_prior as prior

    groups: dict[tuple[bool, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        marks = encode_marked(loaded, prompt)[0][1][prior.HUMAN]
        groups.setdefault(tuple(marks.tolist()), []).append(i)
    return [g[k : k + BATCH] for g in groups.values() for k in range(0, len(g), BATCH)]


def first_groups(groups: Sequence[Sequence[int]], prompts: int) -> list[Sequence[int]]:
    """Take the first groups that hold at least this many prompts."""
    first: list[Sequence[int]] = []
    while sum(map(len, first)) < prompts and len(first) < len(groups):
        first.append(groups[len(first)])
    return first


def seed_of(rows: Sequence[int], take: int) -> int:
    """Choose the seed of a group's batch: the same for every way, another for every take."""
    return rows[0] + 100_000 * take


def generate_group(
    generate: Generate, prompts: Sequence[str], rows: Sequence[int], take: int
) -> Tensor:
    """Generate the images of the prompts at `rows`."""
    return generate([prompts[i] for i in rows], seed_of(rows, take))
