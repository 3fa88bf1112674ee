"""Train a human prior (HcP) for the checkpoint on a MODEL wire."""

import logging
from collections.abc import Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..host import human_prior as priors
from ..host import human_prior_training as host
from ..host.prompt_entries import check_unlimited
from ..models import human_prior as core
from ..models import loss_curve, pose_features
from .human_prior import CATEGORY
from .inputs import (
    check_single,
    named_errors,
    read_images,
    read_latents,
    seed_input,
    weight_files,
    weight_path,
)
from .saving import check_folder, free_path
from .wires import HumanPrior

DRAWN = "the drawn pose"
CURVE_EVERY = 5  # steps between two previews of the loss
log = logging.getLogger(__name__)
Curve = tuple[str, Image.Image, int]


class VitruvianTrainHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        share: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
        return io.Schema(
            node_id="VitruvianTrainHumanPrior",
            display_name="Train Human Prior",
            category=CATEGORY,
            description="Trains a human prior for a checkpoint from images of people, their "
            "texts and, for the best result, their poses (HcP). The checkpoint "
            "itself does not change.",
            is_input_list=True,
            inputs=[
                io.Model.Input("model", tooltip="The checkpoint to train for."),
                io.Latent.Input(
                    "latents", tooltip="The encoded images, all of one size, as a batch or a list."
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="One text per image, from Encode Human Prompt, or one text for all "
                    "images.",
                ),
                io.Image.Input(
                    "pose_images",
                    optional=True,
                    tooltip="The pose of every image, from Draw Pose, in the same order. "
                    "Without them attention is not aligned with poses.",
                ),
                HumanPrior.Input(
                    "initial_human_prior",
                    optional=True,
                    tooltip="A human prior whose training continues.",
                ),
                io.Combo.Input(
                    "pose_encoder_name",
                    options=[DRAWN, *weight_files(None)],
                    tooltip="What turns pose images into features: a ResNet-50 as a "
                    ".safetensors file in models/vitruvian, or the drawing itself.",
                ),
                io.Int.Input(
                    "steps", default=500, min=1, max=100000, tooltip="Number of training steps."
                ),
                io.Int.Input(
                    "samples_per_step",
                    default=4,
                    min=1,
                    max=1024,
                    tooltip="Images per step. Memory holds one at a time, so more take longer "
                    "but need no more memory.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=3e-4,
                    min=1e-7,
                    max=1.0,
                    step=1e-7,
                    tooltip="How far each step changes the weights. Too high: the loss rises "
                    "again.",
                ),
                io.Int.Input(
                    "hidden_size",
                    default=core.HIDDEN,
                    min=1,
                    max=4096,
                    tooltip="Width of the bottleneck in every layer. Not used when "
                    "initial_human_prior is connected.",
                ),
                io.Float.Input(
                    "train_gamma",
                    default=0.0,
                    tooltip="Share of the ordinary attention beside the human-centric one. 0: "
                    "only the human-centric attention.",
                    **{**share, "max": 0.99},
                ),
                io.Combo.Input(
                    "train_mask_tokens",
                    options=[*core.MASKS],
                    default=core.KEYS,
                    tooltip="Where words that are not human-centric are left out: before "
                    "attention is shared out, after it, or only in the trained keys. "
                    "The last begins at the unchanged checkpoint.",
                ),
                io.Float.Input(
                    "alignment_weight",
                    default=core.ALIGNMENT_WEIGHT,
                    tooltip="How strongly attention is pulled toward the pose images. 0: not at "
                    "all. Already at 0.02 it outweighs what the images teach.",
                    **{**share, "step": 0.0001},
                ),
                seed_input("Seed of the noise and of the order of the images."),
                io.String.Input(
                    "filename_prefix",
                    default="human_prior",
                    tooltip="If you cancel the run, what was trained so far is saved in "
                    "models/vitruvian under this name.",
                ),
            ],
            outputs=[
                HumanPrior.Output(
                    "human_prior",
                    "human_prior",
                    tooltip="To Apply Human Prior and Save Human Prior.",
                ),
                io.Image.Output(
                    "loss_image",
                    "loss_image",
                    tooltip="The loss of every step and its running mean.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        model: list,
        latents: list,
        positive: list,
        pose_encoder_name: list,
        steps: list,
        samples_per_step: list,
        learning_rate: list,
        hidden_size: list,
        train_gamma: list,
        train_mask_tokens: list,
        alignment_weight: list,
        seed: list,
        filename_prefix: list,
        pose_images: list | None = None,
        initial_human_prior: list | None = None,
    ) -> io.NodeOutput:
        check_single(
            {
                "model": model,
                "pose_encoder_name": pose_encoder_name,
                "steps": steps,
                "samples_per_step": samples_per_step,
                "learning_rate": learning_rate,
                "hidden_size": hidden_size,
                "train_gamma": train_gamma,
                "train_mask_tokens": train_mask_tokens,
                "alignment_weight": alignment_weight,
                "seed": seed,
                "filename_prefix": filename_prefix,
                "initial_human_prior": initial_human_prior,
            }
        )
        config = host.Config(
            steps=steps[0],
            batch_size=samples_per_step[0],
            learning_rate=learning_rate[0],
            hidden=hidden_size[0],
            gamma=train_gamma[0],
            mask=train_mask_tokens[0],
            alignment_weight=alignment_weight[0],
            seed=seed[0],
        )
        progress, losses = comfy.utils.ProgressBar(config.steps), list[float]()
        trained_prior: priors.Prior | None = None

        def on_step(loss: float, prior: priors.Prior) -> None:
            nonlocal trained_prior
            trained_prior = prior
            losses.append(loss)
            show_curve = len(losses) % CURVE_EVERY == 0
            curve = _preview(losses, config.steps) if show_curve else None
            progress.update_absolute(len(losses), config.steps, curve)

        check_folder()
        samples = _training_samples(latents, positive, pose_images, pose_encoder_name[0])
        initial_prior = initial_human_prior[0] if initial_human_prior else None
        try:
            prior = host.train(model[0], samples, config, initial_prior, on_step)
        except comfy.model_management.InterruptProcessingException:
            if trained_prior is not None:
                _keep(trained_prior, filename_prefix[0], model[0])
            raise
        except ValueError as error:
            if trained_prior is None:
                raise
            file = _keep(trained_prior, filename_prefix[0], model[0])
            what = f" What was trained before is in {file}." if file else ""
            raise ValueError(f"{error}{what}") from error
        loss_image = loss_curve.draw_loss_curve(losses, config.steps)[None]
        return io.NodeOutput(prior, loss_image, ui=ui.PreviewImage(loss_image, cls=cls))


class VitruvianSaveHumanPrior(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianSaveHumanPrior",
            display_name="Save Human Prior",
            category=CATEGORY,
            description="Saves a human prior in models/vitruvian, for Load Human Prior. No "
            "file is overwritten.",
            is_output_node=True,
            inputs=[
                HumanPrior.Input("human_prior", tooltip="From Train Human Prior."),
                io.Model.Input(
                    "model", tooltip="The checkpoint that the human prior was trained for."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="human_prior",
                    tooltip="Name of the file. If it exists already, a number is added.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "filename", "filename", tooltip="The name that Load Human Prior lists."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, human_prior: Any, model: Any, filename_prefix: str) -> io.NodeOutput:
        file = _save(human_prior, filename_prefix, model)
        return io.NodeOutput(file, ui=ui.PreviewText(file))


def _training_samples(
    latents: list, positive: list, pose_images: list | None, pose_encoder_name: str
) -> host.TrainingSet:
    encoded_images = [read_latents(latent, "latents") for latent in latents]
    shapes = {tuple(batch.shape[1:]) for batch in encoded_images}
    if len(shapes) > 1:
        sizes = ", ".join(f"{w * 8} x {h * 8}" for *_, h, w in sorted(shapes))
        raise ValueError(
            f"the images in 'latents' have several sizes ({sizes}): bring them to one size "
            "before they are encoded."
        )
    images = torch.cat(encoded_images)
    texts = [entry for conditioning in positive for entry in conditioning]
    for number, (_, entry) in enumerate(texts, 1):
        check_unlimited(entry, number)
    texts = texts * len(images) if len(texts) == 1 else texts
    if len(texts) != len(images):
        raise ValueError(
            f"there are {len(images)} images in 'latents' and {len(texts)} texts in 'positive': "
            "connect a text for each image, or one for all."
        )
    levels = (
        []
        if pose_images is None
        else _pose_levels(_single_images(pose_images), len(images), pose_encoder_name)
    )
    return host.TrainingSet(images, texts, levels)


def _single_images(pose_images: list) -> list[torch.Tensor]:
    """Read all images [H, W, 3] of the input's batches, which must have one size."""
    batches = [read_images(batch, "pose_images") for batch in pose_images]
    sizes = sorted({(batch.shape[2], batch.shape[1]) for batch in batches})
    if len(sizes) > 1:
        listed = ", ".join(f"{width} x {height}" for width, height in sizes)
        raise ValueError(
            f"the images in 'pose_images' have several sizes ({listed}): draw them in one size."
        )
    return [image for batch in batches for image in batch]


def _pose_levels(
    pose_images: Sequence[torch.Tensor], count: int, pose_encoder_name: str
) -> list[torch.Tensor]:
    """Compute the features of every pose image, at each scale of the encoder."""
    if len(pose_images) != count:
        raise ValueError(
            f"there are {count} images in 'latents' and {len(pose_images)} in 'pose_images': "
            "connect the pose of every image, in the same order."
        )
    features: pose_features.Features = pose_features.image_features
    if pose_encoder_name != DRAWN:
        features = pose_features.resnet50(weight_path(pose_encoder_name))
    image_levels = [
        pose_features.feature_differences(features, image[None].movedim(-1, 1))
        for image in pose_images
    ]
    return [torch.cat(level) for level in zip(*image_levels, strict=True)]


def _preview(losses: list[float], steps: int) -> Curve:
    pixels = (loss_curve.draw_loss_curve(losses, steps) * 255).byte().numpy()
    return "JPEG", Image.fromarray(np.ascontiguousarray(pixels)), loss_curve.WIDTH


def _save(prior: priors.Prior, filename_prefix: str, model: Any) -> str:
    """Save the prior and return the name of its file."""
    path = free_path(filename_prefix, "human_prior")
    host.save(prior, path, host.base_of(model))
    return path.name


def _keep(prior: priors.Prior, filename_prefix: str, model: Any) -> str | None:
    """Save the prior of a run that ends early; None, and a note in the log, if that is impossible:
    why the run ends matters more.
    """
    try:
        return _save(prior, filename_prefix, model)
    except (OSError, ValueError) as error:
        log.error("Train Human Prior: what was trained so far is not saved: %s", error)
        return None


NODES: list[type[io.ComfyNode]] = [VitruvianTrainHumanPrior, VitruvianSaveHumanPrior]
