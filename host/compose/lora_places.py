"""Where in a layer's output each person's LoRAs count: which rows, tokens and cells, how much."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ...models import compose
from .person_loras import SHARED, Block, Part
from .plan import Once
from .streams import NODE, areas
from .text_layouts import RUNNING_TEXT
from .text_masks import IMAGE, JOINT, REST, TEXTS

TEXT_KEYS = re.compile(r"\.attn2\.to_[kv]$")  # of a UNet: layers that read the text
# layers of transformers that read texts, where their number of tokens is that of the image as well
TEXT_LAYERS = re.compile(
    r"txt|text|context|cap_|caption|add_[qkv]_|to_add_|instruct|encoder_|llm|\.[kv]_proj|\.[kv]$"
)
# tables of modulations, whose rows are no tokens
VECTOR_LAYERS = re.compile(
    r"modulation|distilled_guidance|(^|\.)(time_|timestep|vector_in|t_embed)"
)


class TextTokens(NamedTuple):
    """The tokens of one text, or of a person's reference images, in a call, and whose they are."""

    length: int
    owner: int | None  # a person, or the scene behind the people; None: see below
    is_everybodys: bool = False  # the negative prompt of all people


def parts_of_rows(
    blocks: Sequence[Block],
    output: Tensor,
    shared_parts: Callable[[], Sequence[Part]],
    *,
    vectors: bool = False,
) -> Iterator[Part]:
    """Divide a layer's rows among their owners; `shared_parts` are those of rows of all people.
    vectors: they are no tokens.
    """
    if len({block.owner for block in blocks}) == 1 and isinstance(blocks[0].owner, int):
        yield Part(blocks[0].owner, slice(None))
        return
    start, tiles = 0, 1
    times, remainder = divmod(len(output), sum(block.rows for block in blocks))
    if remainder or not times:
        raise ValueError(
            f"{NODE}: a layer of the network reads {len(output)} rows, so it is not known where a "
            "person's LoRA counts. Set mode to exact and shared_negative to off, or remove other "
            "nodes that change the network."
        )
    if vectors and times == 2:  # of reference images, behind all others
        blocks = [*blocks] * times
    else:  # HyperTile divides the image into tiles, those of one image in succession
        tiles = times
    for block in blocks:
        rows = slice(start * tiles, (start + block.rows) * tiles)
        start += block.rows
        if isinstance(block.owner, int):
            yield Part(block.owner, rows)
        elif block.owner == SHARED:
            if tiles != 1:
                raise ValueError(
                    f"{NODE}: the network or another node (HyperTile or the like) reads the image "
                    "in parts, so it is not known where a person's LoRA counts. Set mode to exact "
                    "and shared_negative to off, or remove that node."
                )
            for part in shared_parts():
                yield part._replace(rows=rows, weight=_repeated(part.weight, block.rows))


def is_vectors(output: Tensor) -> bool:
    """Say whether an output is a vector per row, [rows, C] or [rows, 1, C]."""
    return output.dim() == 2 or (output.dim() == 3 and output.shape[1] == 1)


def _repeated(weight: Tensor | None, rows: int) -> Tensor | None:
    """Bring a weight for every image to as many rows, chunk after chunk."""
    if weight is None or len(weight) == 1:
        return weight
    return weight.repeat(rows // len(weight), *[1] * (weight.dim() - 1))


_EVERYWHERE = slice(None)


def _token_parts(weights: Tensor) -> list[Part]:
    """Make the parts of token weights [people, frames or 1, tokens]: only tokens that a person has
    a share of.
    """
    parts = []
    for person, weight in enumerate(weights):
        tokens = weight.any(0).nonzero()[:, 0]
        if not len(tokens):
            continue
        factor = weight[:, tokens, None]
        parts.append(
            Part(
                person,
                _EVERYWHERE,
                None if len(tokens) == weight.shape[1] else tokens,
                None if (factor == 1).all() else factor,
            )
        )
    return parts


def _cell_parts(weights: Tensor) -> list[Part]:
    """Make the parts of cell weights [people, frames or 1, 1, ..., h, w]."""
    return [
        Part(person, _EVERYWHERE, None, None if (weight == 1).all() else weight)
        for person, weight in enumerate(weights)
        if weight.any()
    ]


def _vector_parts(weights: Tensor, dims: int) -> list[Part]:
    """Make the parts of vectors [rows, C] or [rows, n, C] by areas [people, frames or 1]."""
    return [
        Part(person, _EVERYWHERE, None, weight.view(-1, *[1] * (dims - 1)))
        for person, weight in enumerate(weights)
        if weight.any()
    ]


class Places(NamedTuple):
    """Where LoRAs count in rows of all people, kept for the next calls of the sampling."""

    shares: Tensor  # of the people and the scene [S, frames or 1, 1, h, w]
    people: int
    once: Once

    def stored(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """Return what was computed once for these shares under a key."""
        return self.once((id(self.shares), *key), compute)

    def of_people(self, weights: Tensor) -> Tensor:
        """Leave out those of the scene, which carries no LoRA."""
        return weights[: self.people]

    def vectors(self, dims: int) -> list[Part]:
        """Return the parts of vectors [rows, C] or [rows, n, C], by the people's areas."""
        return self.stored(
            ("vectors", dims), lambda: _vector_parts(self.of_people(areas(self.shares)), dims)
        )

    def cells(self, height: int, width: int, dims: int) -> list[Part]:
        """Return the parts of cells [rows, C, h, w] or [rows, C, frames, h, w]."""

        def parts() -> list[Part]:
            shares = self.of_people(compose.resize_shares(self.shares, height, width))
            return _cell_parts(shares if dims == 4 else shares[:, :, None])

        return self.stored(("cells", height, width, dims), parts)


class UNetPlaces:
    """Where LoRAs count in a UNet's rows of all people; `size` of the latent."""

    def __init__(self, places: Places, size: tuple[int, int]):
        self.places, self.sizes = places, _halved(size)

    def parts(self, path: str, layer: Any, output: Tensor) -> list[Part]:
        """Return the parts of a layer's output."""
        if isinstance(layer, _ConvNd):
            return self.places.cells(output.shape[-2], output.shape[-1], 4)
        if output.dim() == 2 or TEXT_KEYS.search(path):
            return self.places.vectors(output.dim())
        size = self.sizes.get(output.shape[1])
        if size is None:
            raise ValueError(
                f"{NODE}: another node changes the number of tokens inside the network (Token "
                "Merging or the like), so it is not known where a person's LoRA counts. Set mode "
                "to exact and shared_negative to off, or remove that node."
            )
        return self.places.stored(("tokens", size), lambda: self._token_parts(size))

    def _token_parts(self, size: tuple[int, int]) -> list[Part]:
        shares = compose.resize_shares(self.places.shares, *size).flatten(2)
        return _token_parts(self.places.of_people(shares))


def _halved(size: tuple[int, int]) -> dict[int, tuple[int, int]]:
    """Return the sizes of a UNet's levels by their number of cells."""
    height, width = size
    sizes = {height * width: size}
    while height > 1 or width > 1:
        height, width = -(-height // 2), -(-width // 2)
        sizes.setdefault(height * width, (height, width))
    return sizes


class TokenLayout(NamedTuple):
    """How a transformer's layers lay out texts and image in one call."""

    texts: tuple[TextTokens, ...]  # as embedded, one behind the other
    second_texts: tuple[tuple[TextTokens, ...], ...]  # that joint attention reads behind them
    padded: Callable[[int], int]  # a number of tokens -> with the network's padding
    order: tuple[str, ...]  # of texts, image and rest where a layer reads all of them
    grid: tuple[int, int]  # height and width of the image in tokens
    images: tuple[TextTokens, ...] = ()  # reference images, behind the image
    registers: int = 0  # tokens before those of the texts that are nobody's

    def text_choices(self) -> dict[int, tuple[TextTokens, ...]]:
        """Return which texts a layer may read, by their number of tokens."""
        padded = tuple(text._replace(length=self.padded(text.length)) for text in self.texts)
        registers = (TextTokens(self.registers, None, is_everybodys=True),) * bool(self.registers)
        seconds = [
            tuple(chain.from_iterable(self.second_texts[:count]))
            for count in range(1, len(self.second_texts) + 1)
        ]
        choices = (
            *self.second_texts,
            *((*padded, *second) for second in seconds),
            *((*registers, *padded), padded, self.texts),
        )
        by_length = {sum(text.length for text in texts): texts for texts in choices}
        return {length: texts for length, texts in by_length.items() if length}

    def rests(self) -> set[int]:
        """Return how many tokens may lie behind those of the image: padding, reference images."""
        cells = self.grid[0] * self.grid[1]
        return {0, self.padded(cells) - cells, self.image_length()}

    def image_length(self) -> int:
        """Count the tokens of all reference images."""
        return sum(image.length for image in self.images)


class TransformerPlaces:
    """Where LoRAs count in a transformer's rows of all people."""

    def __init__(self, places: Places, layout: TokenLayout):
        self.places, self.layout = places, layout
        self.texts, self.rests = layout.text_choices(), layout.rests()
        self.cells = layout.grid[0] * layout.grid[1]

    def parts(self, path: str, layer: Any, output: Tensor) -> list[Part]:
        """Return the parts of a layer's output."""
        if isinstance(layer, _ConvNd):  # an embedding of patches
            return self.places.cells(output.shape[-2], output.shape[-1], output.dim())
        running = RUNNING_TEXT.get()
        if running is not None:  # a text that is refined by itself
            owner = self.layout.texts[running].owner
            if owner is None or owner >= self.places.people:
                return []
            return [Part(owner, slice(None))]
        length = output.shape[1:-1].numel()
        if is_vectors(output) or VECTOR_LAYERS.search(path):
            return self.places.vectors(output.dim())
        reads = self._reads(path, output.shape[1:-1])
        key = self.layout.texts, self.layout.images, self.layout.grid, reads, length
        return self.places.stored(
            key, lambda: _token_parts(self.places.of_people(self._weights(reads, length)))
        )

    def weights(self, reads: str) -> Tensor:
        """Return how much each stream counts in the tokens that a block reads
        [S, frames or 1, tokens].
        """
        texts = sum(self.layout.padded(text.length) for text in self.layout.texts)
        image = self.layout.padded(self.cells) + self.layout.image_length()
        length = {TEXTS: texts, IMAGE: image, JOINT: texts + image}[reads]
        key = self.layout.texts, self.layout.images, self.layout.grid, reads, length, "weights"
        return self.places.stored(key, lambda: self._weights(reads, length))

    def folded(self, path: str, times: int) -> int:
        """Return how many rows of a layer are one row of the call: the tokens of the texts or of
        the image, where it reads each of them by itself; 1 as a rule.
        """
        if times == 1 or RUNNING_TEXT.get() is not None:
            return 1
        is_texts = times in self.texts and TEXT_LAYERS.search(path)
        return times if is_texts or times == self.cells else 1

    def _reads(self, path: str, shape: torch.Size) -> str:
        """Say whether the tokens of an output [rows, *shape, C] are texts, the image, or both."""
        if len(shape) > 1 and shape[0] in self.texts and TEXT_LAYERS.search(path):
            return TEXTS  # several values of each token
        length, cells = shape.numel(), self.cells
        if shape[0] == cells:
            return IMAGE
        choices = {TEXTS} if length in self.texts else set()
        choices |= {IMAGE} if length - cells in self.rests else set()
        choices |= {
            JOINT for text_length in self.texts if length - cells - text_length in self.rests
        }
        if len(choices) > 1:
            choices &= {TEXTS} if TEXT_LAYERS.search(path) else {IMAGE, JOINT}
        if len(choices) != 1:
            raise ValueError(
                f"{NODE}: it is not known which of the {length} tokens of the layer '{path}' are "
                "a person's, so no LoRA can act on them in the mode couple. Set mode to exact and "
                "shared_negative to off."
            )
        return choices.pop()

    def _weights(self, reads: str, length: int) -> Tensor:
        """Return the weights [S, frames or 1, length] of the tokens."""
        shares = compose.resize_shares(self.places.shares, *self.layout.grid).flatten(2)
        if reads == TEXTS:
            texts = self.texts.get(length) or next(
                t for n, t in self.texts.items() if not length % n
            )
            return _spread(self._text_weights(texts, shares), length)
        if reads == IMAGE and length - self.cells not in self.rests:  # several values of a token
            return _spread(shares, length)
        if reads == IMAGE:
            return torch.cat((shares, self._rest_weights(shares, length - self.cells)), -1)
        text_length = next(
            text_length
            for text_length in self.texts
            if length - shares.shape[-1] - text_length in self.rests
        )
        parts = {
            TEXTS: self._text_weights(self.texts[text_length], shares),
            IMAGE: shares,
            REST: self._rest_weights(shares, length - shares.shape[-1] - text_length),
        }
        return torch.cat([parts[part] for part in self.layout.order], -1)

    def _text_weights(self, texts: Sequence[TextTokens], shares: Tensor) -> Tensor:
        """Weigh a person's text by 1 for that person, and everybody's by the areas."""
        weights = []
        for text in texts:
            weight = torch.zeros_like(shares[..., :1])
            if text.is_everybodys:
                weight = shares.mean(-1, keepdim=True)
            elif text.owner is not None:
                weight[text.owner] = 1
            weights.append(weight.expand(-1, -1, text.length))
        return torch.cat(weights, -1)

    def _rest_weights(self, shares: Tensor, count: int) -> Tensor:
        """Weigh the tokens behind the image: reference images of one person like their text, and
        what belongs to no place by the people's areas.
        """
        if count and count == self.layout.image_length():
            return self._text_weights(self.layout.images, shares)
        return shares.mean(-1, keepdim=True).expand(-1, -1, count)


def _spread(weights: Tensor, length: int) -> Tensor:
    """Give each of so many values the weight of its token."""
    return weights.repeat_interleave(length // weights.shape[-1], -1)
