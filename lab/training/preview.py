"""Generate images from the mini weights without the host: for validation, evaluation, the demo.

Same noise, schedule and solver as the host's KSampler (euler, normal), so a seed gives the same
image in both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import ControlNetModel
from PIL import Image, ImageOps
from torch import Tensor, nn

from ...models import detect, mini, pose, pose_drawing
from .convert import Checkpoint, load_checkpoint, load_controlnet
from .networks import build_scheduler
from .tokens import WordTokenizer

WEIGHTS = Path(__file__).parents[2] / "weights"
QUALITY = 75  # of a sheet that is a JPEG
CHECKPOINT = WEIGHTS / "checkpoints" / "vitruvian_mini.safetensors"
POSE_CONTROLNET = WEIGHTS / "controlnet" / "vitruvian_mini_openpose.safetensors"
PROMPT = (
    "a woman with light skin and long black hair wearing a red striped top, blue trousers, "
    "white shoes and a green hat, standing, in a park"
)


class Sampling(NamedTuple):
    """The settings of the sampler."""

    seed: int = 0
    steps: int = 20
    cfg: float = 4.0


DEFAULT_SAMPLING = Sampling()


def noise_levels(steps: int) -> tuple[Tensor, Tensor]:
    """Compute the SD1.5 "normal" schedule: (sigmas [steps + 1], the last 0; timesteps [steps]).

    Timesteps equally spaced from the last to the first; log(sigma) linear between whole ones, and
    the UNet runs at the nearest whole one.
    """
    a = build_scheduler().alphas_cumprod.double()
    log_sigmas = ((1 - a) / a).log() / 2
    times = torch.linspace(len(a) - 1, 0, steps, dtype=torch.float64)
    below = times.floor().long().clamp(max=len(a) - 2)
    sigmas = torch.lerp(log_sigmas[below], log_sigmas[below + 1], times - below).exp()
    nearest = (sigmas.log()[:, None] - log_sigmas).abs().argmin(1)
    return torch.cat([sigmas, sigmas.new_zeros(1)]).float(), nearest


@torch.no_grad()
def sample(
    model: Checkpoint,
    prompts: str | Sequence[str],
    hints: Tensor | None = None,
    controlnet: ControlNetModel | None = None,
    *,
    negative: str = "",
    sampling: Sampling = DEFAULT_SAMPLING,
    size: tuple[int, int] = (mini.IMAGE_SIZE, mini.IMAGE_SIZE),
) -> Tensor:
    """Generate images [B,3,H,W] in 0..1 from B prompts; `size` is (H, W) in pixels, multiples of
    32.

    `hints`, [B,3,H,W] or one for all [1,3,H,W] in 0..1, go to `controlnet`. The modules stay on
    their device and in their mode; trainers pass their own.
    """
    if (hints is None) != (controlnet is None):
        raise ValueError("hints and a ControlNet go together: give both or neither.")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    device = next(model.unet.parameters()).device
    tokenizer = WordTokenizer.from_file(token_ids=model.token_ids)
    context = model.text_encoder(tokenizer([negative] * len(prompts) + prompts).to(device))[0]
    if hints is not None:
        hints = hints.to(device).expand(len(prompts), -1, -1, -1).repeat(2, 1, 1, 1)
    cells = size[0] // mini.LATENT_STRIDE, size[1] // mini.LATENT_STRIDE
    x = denoise(model.unet, context, cells, hints, controlnet, sampling=sampling)
    return decode(model, x)


@torch.no_grad()
def denoise(
    unet: nn.Module,
    context: Tensor,
    cells: tuple[int, int],
    hints: Tensor | None = None,
    controlnet: ControlNetModel | None = None,
    *,
    sampling: Sampling = DEFAULT_SAMPLING,
) -> Tensor:
    """Sample latents [B,4,*cells] of text context [2B,T,C], negative rows first, and hints
    [2B,...].
    """
    shape = (len(context) // 2, mini.LATENT_CHANNELS, *cells)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(sampling.seed)).to(
        context.device
    )
    sigmas, times = noise_levels(sampling.steps)
    x = noise * (1 + sigmas[0] ** 2) ** 0.5
    for sigma, sigma_next, time in zip(sigmas.tolist(), sigmas[1:].tolist(), times, strict=False):
        scaled = (x / (1 + sigma**2) ** 0.5).repeat(2, 1, 1, 1)
        residuals = {}
        if controlnet is not None:
            down, middle = controlnet(scaled, time, context, hints, return_dict=False)
            residuals = {
                "down_block_additional_residuals": down,
                "mid_block_additional_residual": middle,
            }
        uncond, cond = unet(scaled, time, context, **residuals).sample.chunk(2)
        epsilon = uncond + sampling.cfg * (cond - uncond)
        x = x + (sigma_next - sigma) * epsilon  # Euler: dx/dsigma = epsilon
    return x


def save_sheet(images: Tensor, path: Path, *, columns: int) -> None:
    """Write images [B,3,H,W] in 0..1 side by side, `columns` a row, as PNG or JPEG."""
    rows = -(-len(images) // columns)
    blank = torch.zeros(rows * columns - len(images), *images.shape[1:])
    grid = torch.cat((images.cpu(), blank)).unflatten(0, (rows, columns))
    sheet = grid.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    Image.fromarray((sheet * 255).round().clamp(0, 255).byte().numpy()).save(path, quality=QUALITY)


@torch.no_grad()
def decode(model: Checkpoint, latents: Tensor) -> Tensor:
    """Decode normalized latents [B,4,h,w] -> images [B,3,8h,8w] in 0..1."""
    device = next(model.vae.parameters()).device  # a trainer keeps its autoencoder where it was
    z = latents.to(device) / model.latent_scale + model.latent_shift
    images = model.vae.decode(z).sample
    return (images / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def encode(model: Checkpoint, images: Tensor) -> Tensor:
    """Encode images [B,3,8h,8w] in 0..1 -> normalized latents [B,4,h,w]."""
    return (model.vae.encode(images * 2 - 1).latents - model.latent_shift) * model.latent_scale


def preview(photo: Path, out: Path, prompt: str | None = None, *, seed: int = 0) -> Path:
    """Generate an image of people posed as those in `photo`, as a PNG at `out`.

    `prompt` None: PROMPT, and as much of the body as the photograph shows. Raises ValueError when
    the photograph can not be read or shows nobody, or the weights are missing.
    """
    people = in_square(_people_in(photo))
    if prompt is None:
        shows_feet = people.body[:, [pose.R_ANKLE, pose.L_ANKLE], 2].any()
        prompt = f"{PROMPT}, {'full' if shows_feet else 'upper'} body"
    hint = pose_drawing.draw_people(people, mini.IMAGE_SIZE, mini.IMAGE_SIZE).movedim(-1, 0)[None]
    model, controlnet = load_checkpoint(CHECKPOINT), load_controlnet(POSE_CONTROLNET)
    image = sample(model, prompt, hint, controlnet, sampling=Sampling(seed))[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    pixels = (image.movedim(0, -1) * 255).round().byte().cpu().numpy()
    Image.fromarray(pixels).save(out, "PNG")
    return out


def in_square(people: pose.People) -> pose.People:
    """Move people to the middle of a square canvas as wide as the longer side."""
    side = max(people.width, people.height)
    shift = torch.tensor([(side - people.width) / 2, (side - people.height) / 2, 0.0])
    parts = (points + shift * (points[..., 2:] > 0) for points in people[:5])
    return pose.people_from_points(parts, side, side)


def _people_in(photo: Path) -> pose.People:
    try:
        with Image.open(photo) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except OSError as error:
        raise ValueError(f"{photo} can not be read as an image: {error}") from error
    with detect.open_detector(()) as detector:
        people = detector.detect(torch.from_numpy(pixels) / 255)
    if not pose.count(people):
        raise ValueError(f"{photo}: nobody was found. Take a photograph that shows a whole person.")
    return people
