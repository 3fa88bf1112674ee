"""True bodies that generated ones are compared with: what the pose network reads in 2,250 renders,
kept in a small file, so that no benchmark renders them again and all are judged by the same.

The file says which pose network and which autoencoder made it, by their hashes; with others it is
refused.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from ...models import weights
from ..training import convert, preview
from ..world.renderer import render
from ..world.scenes import ACTIONS, FULL, Scenes, sample_scenes
from . import anatomynet, bodies, posenet
from .autoencoded import round_trip

TRUE_BODIES = posenet.EVALUATOR_WEIGHTS / "mini_true_bodies.safetensors"
EACH, SEED = 150, 4_000_000  # bodies of each action; no benchmark's seed
CHUNK = 48
RENEW = "run `dev.py train mini true-bodies --work FOLDER`"
NETWORKS = {"posenet": posenet.POSENET, "anatomynet": anatomynet.ANATOMYNET}
FACTS = {"method": "true_bodies", "base": "mini"}


def build(each: int = EACH) -> bodies.TrueBodies:
    """Read `each` bodies of every action, in images that passed the autoencoder; their features in
    the images as they were rendered.
    """
    net = posenet.load_posenet()
    scenes = _scenes(each)
    reads, features, shapes = [], [], []
    for rows in torch.arange(len(scenes)).split(CHUNK):
        drawn = render(scenes.take(rows))
        reads.append(bodies.read(net, round_trip(drawn.rgb)))
        features.append(bodies.read(net, drawn.rgb).features)
        shapes.append(bodies.shape_of(drawn.body[..., :2]))
    actions = scenes.people.action
    read = bodies.Read(*(torch.cat(part) for part in zip(*reads, strict=True)))
    limits = bodies.limits_of(read, actions)
    return bodies.TrueBodies(limits, torch.cat(shapes), actions, torch.cat(features))


def _scenes(each: int) -> Scenes:
    """Draw scenes of one whole person each, `each` of every action."""
    drawn = sample_scenes(each * len(ACTIONS) * 2 + 200, SEED, framing=FULL, people=1)
    rows = [(drawn.people.action == k).nonzero()[:each, 0] for k in range(len(ACTIONS))]
    return drawn.take(torch.cat(rows).sort().values)


def save(true: bodies.TrueBodies, path: Path = TRUE_BODIES) -> None:
    """Write true bodies: features and shapes of 8 bits a number, each with a scale of its own."""
    tensors = {
        "low": true.limits.low.flatten(),
        "high": true.limits.high.flatten(),
        "make": true.limits.make[None],
        "shapes": true.shapes.T.contiguous(),
        "features": true.features.T.contiguous(),
        "actions": true.actions.to(torch.uint8),
    }
    weights.save(path, tensors, {**FACTS, "version": 1, **sources()}, torch.int8)


def load(path: Path = TRUE_BODIES) -> bodies.TrueBodies:
    """Load the true bodies. ValueError if another pose or anatomy network read them."""
    tensors, facts = weights.load(path, method="true_bodies", base="mini")
    for name, file in NETWORKS.items():
        if facts[name] != _digest(file.read_bytes()):
            raise ValueError(f"{path}: expected bodies read by {file.name}, found others; {RENEW}")
    shapes, features, *limits = (
        tensors[name].float() for name in ("shapes", "features", "low", "high", "make")
    )
    low, high = (limit.view(len(ACTIONS), -1) for limit in limits[:2])
    bounds = bodies.Limits(low, high, limits[2][0])
    return bodies.TrueBodies(bounds, shapes.T, tensors["actions"].long(), features.T)


def sources() -> dict[str, str]:
    """Hash the networks that read the bodies and the autoencoder that the images passed."""
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    autoencoder = b"".join(
        tensor.float().contiguous().numpy().tobytes()
        for _, tensor in sorted(checkpoint.vae.state_dict().items())
    )
    networks = {name: _digest(file.read_bytes()) for name, file in NETWORKS.items()}
    return {**networks, "autoencoder": _digest(autoencoder)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
