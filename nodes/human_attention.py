"""Show where in an image the words of a prompt are attended to."""

from collections.abc import Sequence
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io, ui

from ..host import human_attention as host
from ..host import human_prior
from ..host.progress import step_of
from ..models import human_attention
from ..models.batches import one_each, paired_count
from ..models.human_tokens import Word
from .human_prior import CATEGORY
from .inputs import named_errors, read_images, read_latents, read_phrases, seed_input

PIXELS = 8  # per latent cell
MAPS, WITHOUT, WITH = "attention", "without prior", "with prior"


class VitruvianShowHumanAttention(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianShowHumanAttention",
            display_name="Show Human Attention",
            category=CATEGORY,
            description="Shows where in a finished image the words of its prompt are "
            "attended to: at every scale of the network and at several moments, "
            "without and with a human prior.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The model, as connected to the sampler."),
                io.Conditioning.Input(
                    "positive",
                    tooltip="The prompt from Encode Human Prompt, as connected to the sampler.",
                ),
                io.Latent.Input("latent", tooltip="The finished image, from the sampler."),
                io.String.Input(
                    "words",
                    default="",
                    tooltip="Words or phrases of the prompt, separated by commas. Empty: the "
                    "words that Encode Human Prompt marked.",
                ),
                io.String.Input(
                    "percents",
                    default="0.1, 0.4, 0.7, 0.9",
                    tooltip="At which moments of the sampling to look, separated by commas. 0: "
                    "the first step. 1: the last step.",
                ),
                seed_input(
                    "Seed of the noise that is added to the finished image for every moment."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The decoded image, shown below the maps. Without it, gray.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "attention_images",
                    "attention_images",
                    tooltip="One image per word, latent after latent: a column per moment, and "
                    "rows for every scale without and with the human prior. Maps of one scale "
                    "share one brightness.",
                ),
                io.Mask.Output(
                    "masks",
                    "masks",
                    tooltip="One mask per word, latent after latent: the mean of its maps, at "
                    "most 1, in the size of the image.",
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        words: str,
        percents: str,
        seed: int,
        image: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        word_positions, moments = _word_positions(positive, words), _read_moments(percents)
        samples = read_latents(latent)
        backgrounds = _backgrounds(samples, image)
        count = paired_count({"latent": len(samples), "image": len(backgrounds)})
        count_one = step_of(comfy.utils.ProgressBar(len(samples) * len(moments) + count))
        columns = list(word_positions.values())
        maps_of_latent = [
            _maps_by_row(
                host.read_maps(model, positive, one[None], moments, seed, columns, count_one)
            )
            for one in samples
        ]
        sheets, word_masks = [], []
        for maps_by_row, background in zip(
            one_each(maps_of_latent, count), one_each(backgrounds, count), strict=True
        ):
            sheets.append(
                human_attention.draw_sheets(list(word_positions), moments, maps_by_row, background)
            )
            final = [*maps_by_row.values()][-1]
            word_masks.append(human_attention.word_masks(final, *background.shape[:2]))
            count_one()
        attention_images, masks = torch.cat(sheets), torch.cat(word_masks)
        return io.NodeOutput(attention_images, masks, ui=ui.PreviewImage(attention_images, cls=cls))


def _backgrounds(samples: torch.Tensor, image: torch.Tensor | None) -> torch.Tensor:
    """The images [B, H, W, 3] that are shown below the maps; gray without any."""
    if image is not None:
        return read_images(image)
    height, width = (PIXELS * side for side in samples.shape[-2:])
    return torch.full((1, height, width, 3), human_attention.GRAY)


def _maps_by_row(looks: Sequence[host.MomentMaps]) -> dict[str, list[human_attention.Grids]]:
    """Average the maps of every moment, by row name. The last row is that of the model as it is."""
    without_prior = [human_attention.average_layers(look.ordinary.values()) for look in looks]
    with_prior = [
        human_attention.average_layers(look.with_priors.values())
        for look in looks
        if look.with_priors
    ]
    return {WITHOUT: without_prior, WITH: with_prior} if with_prior else {MAPS: without_prior}


def _word_positions(positive: Any, words: str) -> dict[str, tuple[int, ...]]:
    """Find the token positions of every word that is to be shown."""
    if not positive or human_prior.WORDS not in positive[0][1]:
        raise ValueError(
            "the conditioning does not say what its words are. Encode the positive prompt with "
            "Encode Human Prompt instead of CLIP Text Encode."
        )
    entry = positive[0][1]
    prompt: tuple[Word, ...] = entry[human_prior.WORDS]
    if any(other.get(human_prior.WORDS) != prompt for _, other in positive):
        raise ValueError(
            "'positive' holds several prompts with different words, and this node looks at one. "
            "Connect a prompt as it is before Conditioning Combine."
        )
    positions_of = {
        phrase: human_attention.phrase_positions(phrase, prompt) for phrase in read_phrases(words)
    }
    missing = ", ".join(
        f"'{phrase}'" for phrase, positions in positions_of.items() if not positions
    )
    if missing:
        raise ValueError(f"{missing}: not in the prompt, whose words are {_word_list(prompt)}.")
    positions_of = positions_of or human_attention.marked_positions(
        prompt, entry[human_prior.HUMAN].tolist()
    )
    if not positions_of:
        raise ValueError(
            "no word of the prompt is marked as human-centric. Write some of its words in 'words': "
            f"{_word_list(prompt)}."
        )
    return positions_of


def _word_list(prompt: Sequence[Word]) -> str:
    return ", ".join(dict.fromkeys(word.text for word in prompt if word.text[:1].isalnum()))


def _read_moments(text: str) -> list[float]:
    """Read moments of the sampling, 0 to 1."""
    try:
        moments = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        moments = []
    if not moments or not all(0 <= moment <= 1 for moment in moments):
        raise ValueError(
            f"'percents' must be numbers from 0 to 1, separated by commas, such as 0.1, 0.5; it is "
            f"'{text}'."
        )
    return moments


NODES: list[type[io.ComfyNode]] = [VitruvianShowHumanAttention]
