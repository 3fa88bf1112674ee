"""Composition on the host's other image models, tiny and random: the mode exact against a slow loop
over people, the mode couple against plain runs of one person; and the words that refuse the rest.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import comfy.model_base
import comfy.model_patcher
import pytest
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor
from vitruvian.host import sampling
from vitruvian.host.compose import text_masks
from vitruvian.host.compose.families import REFUSED, compose_family
from vitruvian.host.model_names import MODEL_NAMES
from vitruvian.host.module_hooks import hooked_call
from vitruvian.models.compose import Instance
from vitruvian.nodes import compose as compose_nodes
from vitruvian.tests.host import slow_compose, transformer_networks
from vitruvian.tests.host.other_networks import OTHERS, is_known, make_model, text
from vitruvian.tests.host.transformer_compositions import (
    Chunk,
    Regions,
    compose,
    distance,
    sample,
    watched,
)
from vitruvian.tests.host.transformer_networks import CPU

import nodes as core

CLOSE = 1e-5
MODELS = [name for name in OTHERS if is_known(name)]
EXACT_ONLY = ("ERNIE-Image", "PixArt", "HunyuanDiT")
WITH_REFERENCES = ("OmniGen2", "Boogu", "LongCat-Image", "Mage-Flow", "JoyImage")
models = pytest.mark.parametrize("name", MODELS)
coupled = pytest.mark.parametrize("name", [name for name in MODELS if name not in EXACT_ONLY])
model_of = functools.cache(make_model)


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def all_models():
    yield
    model_of.cache_clear()


class Layout(NamedTuple):
    """Where a model's head is, and where the image's tokens are in what the head reads."""

    head: str
    after_text: bool = False
    side: int = 2  # of a token, in latent cells


LAYOUTS = {
    "OmniGen2": Layout("norm_out", after_text=True),
    "Boogu": Layout("norm_out", after_text=True),
    "Ideogram 4": Layout("final_layer", after_text=True, side=1),
    "ERNIE-Image": Layout("final_norm", side=1),
    "HiDream": Layout("final_layer"),
    "Lens": Layout("norm_out", side=1),
    "Kandinsky 5": Layout("out_layer.out_layer"),
    "Mage-Flow": Layout("norm_out", side=1),
    "JoyImage": Layout("norm_out"),
    "AuraFlow": Layout("final_linear"),
    "PixArt": Layout("final_layer"),
    "HunyuanDiT": Layout("final_layer"),
    "HunyuanImage 2.1": Layout("final_layer", side=1),
    "HunyuanImage 2.1 refiner": Layout("final_layer", side=1),
    "LongCat-Image": Layout("final_layer"),
    "Ovis-Image": Layout("final_layer"),
    "NewBie": Layout("final_layer", after_text=True),
    "Chroma Radiance": Layout("single_blocks.37", after_text=True, side=8),
    "Z-Image in pixels": Layout("layers.1", after_text=True, side=8),
    "Cosmos Predict2": Layout("final_layer"),
    "Wan 2.2 5B": Layout("head"),
    "Wan VACE": Layout("head"),
}
TEXT = {"cross_attn", "pooled_output"} | {key for other in OTHERS.values() for key in other.extra}


def with_text_of(entry: Mapping[str, Any], person: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with another one's text, and what else it has."""
    without_text = {key: value for key, value in entry.items() if key not in TEXT}
    return {**without_text, **{key: value for key, value in person.items() if key in TEXT}}


@contextmanager
def at_head(
    head: torch.nn.Module, read: Callable[[Tensor], Tensor], give: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """While it lasts, the head reads and gives what these make of its tokens."""
    hooks = (
        head.register_forward_pre_hook(lambda _, inputs: (read(inputs[0]), *inputs[1:])),
        head.register_forward_hook(lambda _, __, output: give(output)),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def mixed(
    of_people: Sequence[Tensor], starts: Sequence[int], share: Tensor, images: int
) -> list[Tensor]:
    """Mix the tokens of every place. share [people, frames, height, width]; starts: of the image's
    tokens in each person's.
    """
    everyone, (height, width) = range(len(of_people)), share.shape[-2:]
    results = [tokens.clone() for tokens in of_people]
    rows = [tokens.view(images, -1, tokens.shape[-1]) for tokens in of_people]
    views = [tokens.view(images, -1, tokens.shape[-1]) for tokens in results]
    for image in range(images):
        for place in range(height * width):
            at = image % share.shape[1], place // width, place % width
            token = sum(share[p][at] * rows[p][image, starts[p] + place] for p in everyone)
            for p in everyone:
                views[p][image, starts[p] + place] = token
    return results


def slow(
    name: str, chunk: Chunk, entries: Sequence[Mapping[str, Any]], shares: Tensor, references: int
) -> Tensor:
    """Denoise for several people at once: a plain forward for each person up to the head, then the
    head for each person on tokens mixed place by place, and the rest on its mixed results.
    """
    base, layout, images = model_of(name).model, LAYOUTS[name], len(chunk.x)
    head = base.diffusion_model.get_submodule(layout.head)
    size = [math.ceil(cells / layout.side) for cells in chunk.x.shape[-2:]]
    share = torch.nn.functional.interpolate(shares, size, mode="bilinear")
    multiple = getattr(base.diffusion_model, "pad_tokens_multiple", None) or 1
    starts = [0] * len(entries)
    if layout.after_text:
        lengths = [entry["cross_attn"].shape[1] for entry in entries]
        starts = [math.ceil(length / multiple) * multiple + references for length in lengths]

    def same(tokens: Tensor) -> Tensor:
        return tokens

    def run(entry: Mapping[str, Any], read=same, give=same) -> Tensor:
        with at_head(head, read, give):
            return slow_compose.plain(base, chunk.x, chunk.sigma, entry)

    inputs: list[Tensor] = []
    for entry in entries:
        run(entry, read=lambda tokens: inputs.append(tokens.clone()) or tokens)
    inputs = mixed(inputs, starts, share, images)
    outputs: list[Tensor] = []
    for entry, tokens in zip(entries, inputs, strict=True):
        run(
            entry,
            read=lambda _, tokens=tokens: tokens.clone(),
            give=lambda output: outputs.append(output.clone()) or output,
        )
    outputs = mixed(outputs, starts, share, images)
    return run(entries[0], give=lambda _: outputs[0])


def referenced(name: str, conditioning: list) -> list:
    """Add two reference images."""
    g = torch.Generator().manual_seed(4)
    latent_format = model_of(name).model.latent_format
    frames = [1] * (latent_format.latent_dimensions - 2)
    images = [
        torch.randn(1, latent_format.latent_channels, *frames, *size, generator=g)
        for size in ((6, 4), (4, 8))
    ]
    return [[tokens, {**entry, "reference_latents": images}] for tokens, entry in conditioning]


REFERENCE_CELLS = 6 * 4 + 4 * 8


def regions_of(name: str, *frames: Sequence[tuple[float, float]]) -> Regions:
    """Make regions from shares of the image's width."""
    width = OTHERS[name].size[1]
    return Regions(
        [[(round(a * width), round(b * width)) for a, b in spans] for spans in frames], width
    )


HALVES, OVERLAP = ((0, 0.5), (0.5, 1)), ((0, 0.7), (0.4, 0.9))
CASES = {  # regions of each image, lengths of the people's texts, cfg, what else is composed
    "halves": ((HALVES,), (20, 20), 3.0, {}),
    "two images": ((OVERLAP, HALVES), (20, 33), 1.0, {"harmony": 1.0}),
    "scene": ((((0.1, 0.4), (0.6, 0.9)),), (24, 24), 1.0, {"scene": True}),
}


def check_exact(name: str, case: str, change: Callable[[list], list] = lambda c: c) -> None:
    """Compare the composition with the slow loop."""
    frames, lengths, cfg, changes = CASES[case]
    regions, size = regions_of(name, *frames), OTHERS[name].size
    prompts = change(text(name, 1, 24)), change(text(name, 2, 20))
    people = [text(name, 5 + n, tokens) for n, tokens in enumerate(lengths)]
    model, *conditionings = compose(model_of(name), prompts, people, regions, **changes)
    model, chunks = watched(model)
    sample(model, *conditionings, size=size, cfg=cfg, batch=len(frames), steps=1)
    positive, negative = map(slow_compose.entry_of, prompts)
    entries = [with_text_of(positive, slow_compose.entry_of(person)) for person in people]
    entries += [positive] * bool(changes.get("scene"))
    shares = regions.shares(chunks[0].x.shape[-2], scene=bool(changes.get("scene")))
    references = REFERENCE_CELLS // LAYOUTS[name].side ** 2 * ("reference_latents" in positive)
    assert len(chunks) == (1 if cfg == 1 else 2)
    for chunk in chunks:
        expected = (
            slow(name, chunk, entries, shares, references)
            if chunk.positive
            else slow_compose.plain(model.model, chunk.x, chunk.sigma, negative)
        )
        assert distance(chunk.denoised, expected) < CLOSE


def check_alone(
    name: str, mode: str, owner: int, change: Callable[[list], list] = lambda c: c
) -> None:
    """Compare a composition whose cells are all one person's with that person alone."""
    prompts = change(text(name, 1, 24)), change(text(name, 2, 20))
    people = [text(name, 5, 20), text(name, 6, 41)]
    spans = [(0, 0), (0, 0)]
    spans[owner] = (0, 1)
    settings = {"cfg": 3.0, "size": OTHERS[name].size}
    composed = compose(model_of(name), prompts, people, regions_of(name, spans), mode=mode)
    alone = change(people[owner])
    plain = sample(model_of(name), alone, prompts[1], **settings)
    assert distance(sample(*composed, **settings), plain) < CLOSE


@models
@pytest.mark.parametrize("case", CASES)
def test_exact_equals_a_slow_loop_over_people(name, case):
    check_exact(name, case)


@models
@pytest.mark.parametrize("owner", [0, 1])
def test_exact_on_all_cells_is_that_person_alone(name, owner):
    check_alone(name, "exact", owner)


@coupled
@pytest.mark.parametrize("owner", [0, 1])
def test_couple_on_all_cells_is_that_person_alone(name, owner):
    check_alone(name, "couple", owner)


@pytest.mark.parametrize("name", [name for name in WITH_REFERENCES if is_known(name)])
def test_reference_images_stay_with_everybody(name):
    change = functools.partial(referenced, name)
    check_exact(name, "two images", change)
    for owner in (0, 1):
        check_alone(name, "couple", owner, change)
    plain = sample(model_of(name), text(name, 5), text(name, 2))
    edited = sample(model_of(name), change(text(name, 5)), change(text(name, 2)))
    assert distance(edited, plain) > 1e-3


@pytest.mark.parametrize("mode", ["exact", "couple"])
@pytest.mark.parametrize("owner", [0, 1])
def test_only_some_prompts_have_words_to_be_written(mode, owner):
    name = "HunyuanImage 2.1"
    people = [text(name, 5, 20), text(name, 6, 41)]
    del people[1][0][1]["conditioning_byt5small"]
    spans = [(0, 0), (0, 0)]
    spans[owner] = (0, 1)
    prompts = text(name, 1), text(name, 2)
    composed = compose(model_of(name), prompts, people, regions_of(name, spans), mode=mode)
    assert distance(sample(*composed), sample(model_of(name), people[owner], prompts[1])) < CLOSE


@pytest.mark.parametrize("order", [*itertools.permutations(("texts", "image", "rest"))], ids=str)
def test_joint_attention_reads_the_parts_in_their_order(order):
    shares = torch.tensor([[[1.0, 0.25, 0.0], [0.0, 0.75, 1.0]]])  # of two texts in three cells
    texts = text_masks.Texts((1, 2, 0, 1), shares, order)  # the second one has a second text
    owners = {"texts": [0, 1, 1, 1], "image": ["cell 0", "cell 1", "cell 2"], "rest": ["rest"] * 2}
    tokens = [token for part in order for token in owners[part]]
    masks, received = text_masks.TextMasks(texts), []
    q = torch.zeros(1, 1, len(tokens), 4)

    class Attention(torch.nn.Module):
        def forward(self, options):
            masks.override(None)(lambda *_, mask: received.append(mask), q, q, q, 1)

    attention = Attention()
    with hooked_call(attention, {}, "Test") as options:
        masks.watch(attention, text_masks.JOINT)
        attention(options)
    weight = received[0][0, 0].exp()
    for row, query in enumerate(tokens):
        for column, key in enumerate(tokens):
            if isinstance(key, str):
                expected = 1.0
            elif isinstance(query, int):
                expected = float(query == key)
            elif query == "rest":
                expected = float(shares[0, key].mean())
            else:
                expected = float(shares[0, key, int(query[-1])])
            assert abs(float(weight[row, column]) - expected) < 1e-6


@coupled
def test_equal_people_are_one_plain_run(name):
    prompts, person = (text(name, 1, 24), text(name, 2, 20)), text(name, 5, 20)
    regions = regions_of(name, ((0, 0.6), (0.2, 0.7), (0.6, 0.8)))
    settings = {"cfg": 3.0, "size": OTHERS[name].size}
    composed = compose(model_of(name), prompts, [person] * 3, regions, mode="couple", harmony=1.0)
    alone = sample(model_of(name), person, prompts[1], **settings)
    assert distance(sample(*composed, **settings), alone) < CLOSE


@coupled
def test_everybodys_prompt_counts_most_where_they_are(name):
    size = OTHERS[name].size
    prompts, people = (text(name, 1), text(name, 2)), [text(name, n, 33) for n in (5, 6, 7)]
    for person in people:  # a pooled text is felt everywhere
        person[0][1]["pooled_output"] = people[0][0][1]["pooled_output"]
    results = [
        sample(
            *compose(
                model_of(name),
                prompts,
                [people[0], second],
                regions_of(name, HALVES),
                mode="couple",
            ),
            size=size,
            steps=1,
        )
        for second in people[1:]
    ]
    change = (results[0] - results[1]).abs()
    middle = size[1] // 2
    assert float(change[..., middle:].max()) > 1e-4 * float(results[0].abs().max())
    assert float(change[..., :middle].mean()) < 0.7 * float(change[..., middle:].mean())


UNETS = set("SDXL SDXLRefiner SD21UNCLIP SD15_instructpix2pix SDXL_instructpix2pix".split())


def empty(class_: type) -> Any:
    """Make an object of one of the host's classes without its weights."""
    instance = class_.__new__(class_)
    torch.nn.Module.__init__(instance)
    return instance


def model_with(base: Any, network: Any = None) -> Any:
    """Make a MODEL of these, of which a network is not asked for more than its class."""
    base.diffusion_model = network or torch.nn.Module()
    return comfy.model_patcher.ModelPatcher(base, load_device=CPU, offload_device=CPU)


def host_models() -> dict[str, type]:
    """Return the host's classes of MODELs."""
    return {
        name: class_
        for name, class_ in vars(comfy.model_base).items()
        if isinstance(class_, type)
        and issubclass(class_, comfy.model_base.BaseModel)
        and class_ is not comfy.model_base.BaseModel
    }


def test_every_model_of_the_host_is_composed_or_refused():
    """A new one has to be tried here, or refused in REFUSED with its reason."""
    tried = {type(model_of(name).model).__name__ for name in MODELS}
    for name in filter(transformer_networks.is_known, transformer_networks.NETWORKS):
        tried.add(type(transformer_networks.make_model(name).model).__name__)
    names = set(host_models())
    assert names - tried - UNETS - set(REFUSED) == set()
    assert not tried & set(REFUSED)
    assert names - UNETS - set(MODEL_NAMES) == set()


@pytest.mark.parametrize("name", [name for name in REFUSED if name in host_models()])
def test_the_rest_is_refused_by_name_with_the_reason(name):
    with pytest.raises(ValueError) as error:
        compose_family(model_with(empty(host_models()[name])), "exact")
    assert str(error.value) == (
        f"this model is {MODEL_NAMES[name]}, which {REFUSED[name]}. Connect a model that makes "
        "images from prompts, such as Z-Image, Qwen-Image, Flux or SDXL, to 'model'."
    )


def test_the_node_refuses_in_its_own_name():
    prompt = [[torch.randn(1, 4, 8), {}]]
    with pytest.raises(ValueError) as error:
        compose_nodes.VitruvianComposeInstances.execute(
            model=model_with(empty(comfy.model_base.HunyuanVideo)),
            positive=prompt,
            negative=prompt,
            instances=(Instance(prompt, 0, torch.ones(1, 8, 8)),),
            mode="couple",
            strength=1.0,
            harmony=0.5,
            dilation=0.06,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=compose_nodes.MEAN,
            shared_negative=True,
        )
    assert str(error.value).startswith(
        "Compose Instances: this model is HunyuanVideo, which makes videos, and people are "
    )


@pytest.mark.parametrize("name", EXACT_ONLY)
def test_couple_is_refused_with_the_reason(name):
    if not is_known(name):
        pytest.skip("this host does not know the model")
    with pytest.raises(ValueError, match=f"^the mode 'couple' is not for {name}: it.*to exact"):
        compose_family(model_of(name), "couple")
    with pytest.raises(ValueError, match=f"^the mode 'layers' is not for {name}. Set mode to"):
        compose_family(model_of(name), "layers")


def test_a_network_that_is_derived_from_a_known_one_is_refused():
    derived = empty(type("Derived", (Flux,), {}))
    base = empty(comfy.model_base.Flux)
    assert "Flux.1" in compose_family(model_with(base, empty(Flux)), "exact").family.names
    with pytest.raises(ValueError, match=r"but this model is Flux.1 \(Derived\)"):
        compose_family(model_with(base, derived), "exact")
    unknown = empty(type("Another", (comfy.model_base.BaseModel,), {}))
    with pytest.raises(ValueError, match=r"another network \(Derived\)"):
        compose_family(model_with(unknown, derived), "exact")


def test_networks_of_images_and_videos_are_told_apart_by_their_models():
    network = empty(model_of("HunyuanImage 2.1").model.diffusion_model.__class__)
    images = empty(comfy.model_base.HunyuanImage21)
    assert compose_family(model_with(images, network), "exact").family.names == (
        "HunyuanImage 2.1",
    )
    with pytest.raises(ValueError, match="another network|HunyuanVideo"):
        sampling.known_family(
            model_with(empty(comfy.model_base.HunyuanVideo), network),
            "Test",
            [compose_family(model_with(images, network), "exact").family],
        )


@pytest.mark.parametrize("name", sampling.PROMPTLESS_UNETS)
def test_unets_that_read_no_prompt_are_refused_by_every_method(name):
    model = model_with(empty(host_models()[name]), empty(UNetModel))
    with pytest.raises(ValueError) as error:
        sampling.unet_of(model, "Test")
    assert str(error.value).startswith(
        f"Test knows SD1.5, SD2.x and SDXL, but this model is {MODEL_NAMES[name]} (UNetModel). "
    )


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_a_video_of_a_model_of_images_and_videos_is_refused(mode):
    name = "Wan 2.2 5B"
    composed = compose(
        model_of(name),
        (text(name, 1), text(name, 2)),
        [text(name, 5), text(name, 6)],
        regions_of(name, HALVES),
        mode=mode,
    )
    latent = {"samples": torch.zeros(1, 48, 3, *OTHERS[name].size)}
    with pytest.raises(ValueError, match="^Compose Instances: .* a video of 3 frames"):
        core.common_ksampler(composed[0], 3, 1, 1.0, "euler", "simple", *composed[1:], latent)
