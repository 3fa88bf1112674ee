"""How good the mini weights are, measured against the mini world's ground truth through the host's
own nodes.

`..._baseline` is the same without what is measured (an untrained VAE, no ControlNet); `..._ceiling`
is the evaluator on the true images, after a round trip through the VAE: nothing generated can
score higher than that but by luck.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from ...models.mini import IMAGE_SIZE
from ..evaluators import measurements, posenet
from ..training import convert, networks, preview, vae
from ..world.captions import scene_caption
from ..world.dataset import draw_hint
from ..world.renderer import render
from ..world.scenes import FULL, sample_scenes
from . import host

UNSEEN = 2_000_000  # seeds of training scenes lie far below
RESULTS = Path(__file__).parent / "results"
SHEET = 16


def run(quick: bool) -> dict[str, float]:
    """Measure the mini weights; the numbers of results/mini.json.

    Also writes the contact sheet of 16 samples
    beside it.
    """
    count = 30 if quick else 200
    scenes = sample_scenes(count, UNSEEN, framing=FULL, people=1)
    truth = render(scenes)
    prompts = [scene_caption(scenes, i) for i in range(count)]
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(count)])
    loaded = host.load(preview.CHECKPOINT.name, preview.POSE_CONTROLNET.name)

    start = time.perf_counter()
    controlled = host.images(loaded, prompts, hints, IMAGE_SIZE)
    seconds = (time.perf_counter() - start) / count
    start = time.perf_counter()
    free = host.images(loaded, prompts, None, IMAGE_SIZE)
    seconds_free = (time.perf_counter() - start) / count

    net, checkpoint = posenet.load_posenet(), convert.load_checkpoint(preview.CHECKPOINT)
    back = preview.decode(checkpoint, preview.encode(checkpoint, truth.rgb))
    torch.manual_seed(0)
    hits = measurements.color_hits(controlled, scenes, truth)
    save_contact_sheet(loaded)
    return {
        "scenes": count,
        "vae_psnr": vae.psnr(checkpoint.vae, truth.rgb * 2 - 1),
        "vae_psnr_baseline": vae.psnr(networks.build_vae().eval(), truth.rgb * 2 - 1),
        "color_accuracy": measurements.color_accuracy(controlled, scenes, truth),
        "color_accuracy_baseline": measurements.color_accuracy(free, scenes, truth),
        "color_accuracy_ceiling": measurements.color_accuracy(back, scenes, truth),
        **{f"color_accuracy_{garment}": float(hit.float().mean()) for garment, hit in hits.items()},
        "pck": measurements.pck(net, controlled, truth),
        "pck_baseline": measurements.pck(net, free, truth),
        "pck_ceiling": measurements.pck(net, back, truth),
        "weights_mb": sum(f.stat().st_size for f in (preview.CHECKPOINT, preview.POSE_CONTROLNET))
        / 1e6,
        "seconds_per_image": seconds,
        "seconds_per_image_baseline": seconds_free,
    }


def save_contact_sheet(loaded: host.Loaded) -> None:
    """Write a sheet of 16 unseen scenes of every kind, in columns of two: the pose and the image
    made from it and the caption.
    """
    scenes = sample_scenes(SHEET, UNSEEN + 1)
    truth = render(scenes)
    hints = torch.stack([draw_hint(i, scenes, truth) for i in range(SHEET)])
    generated = host.images(
        loaded, [scene_caption(scenes, i) for i in range(SHEET)], hints, IMAGE_SIZE
    )
    RESULTS.mkdir(exist_ok=True)
    preview.save_sheet(
        torch.stack((hints, generated), 1).flatten(0, 1), RESULTS / "mini.jpg", columns=8
    )
