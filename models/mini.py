"""Define the architectures of the mini model families.

A narrow SD1.5 and, beside it, a narrow SD3 for the same latents: their key layouts, their noise
schedules, their text interfaces, a hundred times fewer weights. The host's model families and the
trainers' networks both read their configurations from here.
"""

from dataclasses import dataclass

NAME = "mini"  # the value of `vitruvian.base` in the metadata of weights made for this family
TRANSFORMER_NAME = "mini transformer"  # the same of weights made for the narrow SD3
IMAGE_SIZE = 192  # pixels, both sides
LATENT_CHANNELS = 4
LATENT_STRIDE = 8  # pixels per latent cell
HOST_LATENT_SCALE = 0.18215  # the SD1.5 latent format: model latents = 0.18215 * node latents


@dataclass(frozen=True)
class UNet:
    """Describe the UNet: SD1.5's, but narrower.

    Channels are multiples of 32, the number of GroupNorm groups.
    """

    model_channels: int = 64
    channel_mult: tuple[int, ...] = (1, 2, 2)
    res_blocks: int = 1
    # whether each level has a transformer of depth 1 beside each residual block
    attention: tuple[bool, ...] = (False, True, True)
    heads: int = 4
    context_dim: int = 192
    norm_groups: int = 32


@dataclass(frozen=True)
class TextEncoder:
    """Describe the text encoder: CLIP's, but narrower.

    The host always allocates `vocabulary` rows.
    """

    hidden: int = 192
    layers: int = 3
    heads: int = 3
    intermediate: int = 768
    positions: int = 77
    activation: str = "quick_gelu"
    vocabulary: int = 49_408
    bos: int = 49_406
    eos: int = 49_407


@dataclass(frozen=True)
class VAE:
    """Describe the VAE, a TAESD: its blocks per resolution, in the order of the data."""

    channels: int = 64
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)


@dataclass(frozen=True)
class ControlNet:
    """Describe the ControlNet's image encoder: its channels from pixels to latents.

    The resolution is halved between two neighbors.
    """

    image_channels: tuple[int, ...] = (16, 32, 96, 256)


@dataclass(frozen=True)
class Noise:
    """Describe SD1.5's training noise: sqrt(beta) is linear in the step.

    The UNet predicts epsilon.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012


@dataclass(frozen=True)
class Transformer:
    """Describe the transformer: SD3's joint blocks for image and text, but narrow.

    The host's heads are all 64 wide. Its modulation scales without shifts.
    """

    heads: int = 2
    blocks: int = 5
    mlp_ratio: float = 1.375
    patch: int = 2  # latent cells in a token, both sides; the host places no finer ones
    shift: float = 2.0  # of the noise levels that samplers step through, as SD3's 3

    @property
    def width(self) -> int:
        """Channels of a token."""
        return 64 * self.heads


UNET = UNet()
TEXT = TextEncoder()
VAE_LAYOUT = VAE()
CONTROL = ControlNet()
NOISE = Noise()
TRANSFORMER = Transformer()
TRANSFORMER_TEXT = TextEncoder(hidden=128, layers=1, heads=2, intermediate=256)
POSE_HINT_SCALE = 1.5305  # of SD3's latents, by which the host scales what its ControlNets read
