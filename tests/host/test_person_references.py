"""Reference images of single people on transformers that read them, tiny random networks: the mode
exact against a slow loop, the mode couple against plain runs, and that nobody else sees them.
"""

import functools
import re
from typing import NamedTuple

import pytest
import torch
from comfy.sampler_helpers import convert_cond
from comfy_extras import nodes_edit_model, nodes_flux
from vitruvian.host.compose.references import stream_size
from vitruvian.host.compose.streams import KEY
from vitruvian.host.registration import register
from vitruvian.nodes import compose as compose_nodes
from vitruvian.nodes.instances import VitruvianAddInstance
from vitruvian.tests.host import other_networks, transformer_networks
from vitruvian.tests.host.test_person_loras import loaded, lora_of
from vitruvian.tests.host.transformer_compositions import (
    HALVES,
    Regions,
    check_exact,
    compose,
    distance,
    sample,
    watched,
)

import nodes as core

register()
CLOSE = 1e-5
METHODS = {  # of the families that read reference images; None: the family's default
    "Flux.1 dev": (None, "offset", "index", "uxo"),
    "Flux.2 dev": (None, "index", "index_timestep_zero"),
    "Flux.2 Klein": (None, "index_timestep_zero"),
    "Qwen-Image": (None, "index", "negative_index", "offset", "index_timestep_zero"),
    "Krea 2": ("index", "index_timestep_zero"),
    "LongCat-Image": (None, "index"),
    "Ovis-Image": (None,),
    "Mage-Flow": (None,),
}
EXACT_ONLY = {"OmniGen2": (None,), "Boogu": (None,), "JoyImage": (None,), "Z-Image": (None,)}


def networks_of(name):
    return transformer_networks if name in transformer_networks.NETWORKS else other_networks


@functools.cache
def model_of(name):
    return networks_of(name).make_model(name)


def knows(name):
    """Tell whether this host has the family, and its network reads reference images."""
    if not networks_of(name).is_known(name):
        return False
    return name != "Z-Image" or hasattr(nodes_edit_model, "io")


def cases(families):
    return [(name, method) for name in families if knows(name) for method in families[name]]


coupled = pytest.mark.parametrize("name, method", cases(METHODS))
exact = pytest.mark.parametrize("name, method", cases({**METHODS, **EXACT_ONLY}))


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    """Let the MODELs go while the host still can."""
    yield
    model_of.cache_clear()


def image(name, seed, height, width, images=1):
    """Return a random latent as the family's VAE gives it."""
    latent_format = model_of(name).model.latent_format
    frames = [1] * (latent_format.latent_dimensions - 2)
    shape = images, latent_format.latent_channels, *frames, height, width
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_images(conditioning, images=None, method=None):
    """Return a CONDITIONING behind Reference Latent and Edit Model Reference Method."""
    extra = {"reference_latents": images} if images else {}
    extra |= {"reference_latents_method": method} if method else {}
    return [[text, {**entry, **extra}] for text, entry in conditioning]


class Cast(NamedTuple):
    """Positive and negative, and two people with images of their own."""

    prompts: tuple[list, list]
    people: list


A_SIZES, B_SIZE = ((8, 8), (4, 12)), (12, 8)


def cast_of(name, method, *, shared=0, other=None, b_images=None):
    """Make a cast; `shared` images come with the positive prompt. other: another seed of B's."""
    text = functools.partial(networks_of(name).text, name)
    positive, negative = text(1, 24), text(2, 20)
    everybodys = [image(name, 90 + n, 4, 8) for n in range(shared)]
    positive = with_images(positive, everybodys, method if shared else None)
    negative = with_images(negative, everybodys[:1], method if shared else None)
    a_images = [image(name, 10 + n, *size) for n, size in enumerate(A_SIZES)]
    b_images = b_images or [image(name, other or 20, *B_SIZE)]
    people = [
        with_images(text(5, 20), a_images, method),
        with_images(text(6, 33), b_images, method),
    ]
    return Cast((positive, negative), people)


def alone(cast, number):
    """Return the CONDITIONING of one person with the positive prompt's images before theirs."""
    ((tokens, entry),) = cast.people[number]
    everybodys = cast.prompts[0][0][1].get("reference_latents", [])
    images = [*everybodys, *entry["reference_latents"]]
    return [[tokens, {**entry, "reference_latents": images}]]


def only(number):
    spans = [(0, 0), (0, 0)]
    spans[number] = (0, 12)
    return Regions((spans,))


@exact
@pytest.mark.parametrize("shared", [0, 1])
def test_exact_equals_a_slow_loop_over_people(name, method, shared, record_property):
    cast = cast_of(name, method, shared=shared)
    regions = Regions((((0, 8), (4, 12)),))
    model, *conditionings = compose(model_of(name), *cast, regions, harmony=1.0)
    model, chunks = watched(model)
    sample(model, *conditionings, steps=1, cfg=3.0)
    assert len(chunks) == 2
    error = check_exact(model.model, chunks, *cast, regions.shares(8))
    record_property("error", error)
    assert error < CLOSE


@exact
@pytest.mark.parametrize("owner", [0, 1])
def test_exact_on_all_cells_is_that_person_alone(name, method, owner):
    cast = cast_of(name, method)
    composed = compose(model_of(name), *cast, only(owner))
    plain = sample(model_of(name), alone(cast, owner), cast.prompts[1], cfg=3.0)
    assert distance(sample(*composed, cfg=3.0), plain) < CLOSE


@coupled
@pytest.mark.parametrize("shared", [0, 1])
@pytest.mark.parametrize("owner", [0, 1])
def test_couple_on_all_cells_is_that_person_alone(name, method, shared, owner, record_property):
    cast = cast_of(name, method, shared=shared)
    composed = compose(model_of(name), *cast, only(owner), mode="couple")
    plain = sample(model_of(name), alone(cast, owner), cast.prompts[1], cfg=3.0)
    error = distance(sample(*composed, cfg=3.0), plain)
    record_property("error", error)
    assert error < CLOSE
    without = [[tokens, {**entry, "reference_latents": []}] for tokens, entry in cast.people[owner]]
    assert distance(plain, sample(model_of(name), without, cast.prompts[1], cfg=3.0)) > 1e-3


@exact
def test_exact_nobody_else_sees_a_persons_images(name, method):
    one_step = functools.partial(sample, steps=1)
    first = one_step(*compose(model_of(name), *cast_of(name, method)))
    larger = [image(name, 30, 16, 16), image(name, 31, 4, 4)]
    for changes in ({"other": 21}, {"b_images": larger}):
        other = one_step(*compose(model_of(name), *cast_of(name, method, **changes)))
        change = (first - other).abs()
        assert float(change[..., :6].max()) == 0
        assert float(change[..., 6:].max()) > 1e-4


def closed(name, cast, columns=6):
    """Return a MODEL in which cells see their own region only, and texts the cells of theirs."""
    model = model_of(name)
    side = 1 if name == "Mage-Flow" or name.startswith("Flux.2") else 2  # of a token
    latent = transformer_networks.empty_latent(model)["samples"]
    height, width = (cells // side for cells in latent.shape[-2:])
    text_lengths = [person[0][0].shape[1] for person in cast.people]
    if name.startswith("Flux.2"):  # the host pads its texts
        text_lengths = [512, 512]
    of_cells = [0] * (columns // side) + [1] * (width - columns // side)
    owners = [0] * text_lengths[0] + [1] * text_lengths[1] + of_cells * height
    count = len(owners)

    def override(function, q, k, v, heads, *args, mask=None, **kw):
        if q.shape[-2] > count:
            owner = torch.tensor(owners)
            apart = owner[:, None] != owner
            mask = mask.clone()
            hidden = torch.finfo(q.dtype).min
            mask[..., :count, :count] = mask[..., :count, :count].masked_fill(apart, hidden)
        return function(q, k, v, heads, *args, mask=mask, **kw)

    model = model.clone()
    options = model.model_options["transformer_options"]
    model.model_options["transformer_options"] = {
        **options,
        "optimized_attention_override": override,
    }
    return model


@coupled
def test_couple_with_closed_regions_nobody_else_sees_a_persons_images(name, method):
    results = []
    for other in (20, 21):
        cast = cast_of(name, method, other=other)
        results.append(sample(*compose(closed(name, cast), *cast, mode="couple")))
    change = (results[0] - results[1]).abs()
    assert float(change[..., :6].max()) == 0
    assert float(change[..., 6:].max()) > 1e-4


@coupled
def test_couple_a_persons_images_count_most_where_they_are(name, method):
    results = [
        sample(
            *compose(model_of(name), *cast_of(name, method, other=other), mode="couple"), steps=1
        )
        for other in (20, 21)
    ]
    change = (results[0] - results[1]).abs()
    assert float(change[..., 6:].mean()) > 2 * float(change[..., :6].mean()) > 0


@pytest.mark.parametrize("name", [name for name in METHODS if knows(name)])
@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_images_of_a_batch(name, mode):
    """Every image has places of its own, and a reference of one image serves both."""
    method = None if name == "Flux.2 dev" else METHODS[name][-1]  # the host itself can not do it
    b_images = [image(name, 20, *B_SIZE, images=2)]
    cast = cast_of(name, method, b_images=b_images)
    regions = Regions((((0, 12), (0, 0)), ((0, 0), (0, 12))))
    images = sample(*compose(model_of(name), *cast, regions, mode=mode), batch=2)
    for number in (0, 1):
        plain = sample(model_of(name), alone(cast, number), cast.prompts[1], batch=2)
        assert distance(images[number], plain[number]) < CLOSE


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_only_one_person_has_images(mode):
    name = "Qwen-Image"
    cast = cast_of(name, None)
    cast.people[1] = networks_of(name).text(name, 6, 33)
    for owner in (0, 1):
        composed = sample(*compose(model_of(name), *cast, only(owner), mode=mode))
        plain = sample(model_of(name), cast.people[owner], cast.prompts[1])
        assert distance(composed, plain) < CLOSE


@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_no_images_are_as_if_there_were_none(mode):
    name = "Flux.1 dev"
    people = [networks_of(name).text(name, n) for n in (5, 6)]
    empty = [[[tokens, {**e, "reference_latents": []}] for tokens, e in p] for p in people]
    prompts = cast_of(name, None).prompts
    first = sample(*compose(model_of(name), prompts, people, mode=mode), cfg=3.0)
    assert torch.equal(first, sample(*compose(model_of(name), prompts, empty, mode=mode), cfg=3.0))


def test_people_with_images_of_one_size_share_a_pass():
    name = "Flux.1 dev"
    calls = []
    hook = model_of(name).model.diffusion_model.register_forward_hook(
        lambda _, inputs, __: calls.append(len(inputs[0]))
    )
    text = functools.partial(networks_of(name).text, name)
    cast = cast_of(name, None)
    people = [with_images(text(n), [image(name, n, 8, 8)]) for n in (5, 6)]
    try:
        sample(*compose(model_of(name), cast.prompts, people), steps=1)
        assert calls == [2]
        calls.clear()
        sample(*compose(model_of(name), *cast), steps=1)
        assert calls == [1, 1]
    finally:
        hook.remove()


@exact
def test_exact_people_with_images_of_one_size(name, method):
    text = functools.partial(networks_of(name).text, name)
    people = [with_images(text(n), [image(name, n, 8, 8)], method) for n in (5, 6)]
    cast = Cast(cast_of(name, method).prompts, people)
    model, *conditionings = compose(model_of(name), *cast)
    model, chunks = watched(model)
    sample(model, *conditionings, steps=1)
    shares = Regions((HALVES,)).shares(8)
    assert check_exact(model.model, chunks, *cast, shares) < CLOSE


@coupled
@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_with_a_lora_per_person_too(name, method, mode, record_property):
    """Reference images are read with the LoRA of their person."""
    cast, loras = cast_of(name, method), [lora_of(model_of(name), seed) for seed in (5, 6)]
    for owner in (0, 1):
        composed = compose(
            model_of(name), *cast, only(owner), mode=mode, loras=tuple((lora,) for lora in loras)
        )
        prompts = alone(cast, owner), cast.prompts[1]
        plain = sample(loaded(model_of(name), loras[owner]), *prompts)
        error = distance(sample(*composed), plain)
        record_property(f"error {owner}", error)
        assert error < 1e-4


VECTORS = re.compile(r"_mod\.|modulation|time_|vector_in|guidance|final_layer|norm_out")


@pytest.mark.parametrize(
    "name, method", [case for case in cases(METHODS) if case[0].startswith(("Flux", "Qwen"))]
)
def test_couple_with_closed_regions_a_lora_acts_on_its_persons_images_only(name, method):
    """Where the host gives vectors to the images, all people share them, so those layers have no
    LoRA here.
    """
    cast, results = cast_of(name, method), []
    for seed in (5, 6):
        lora = lora_of(model_of(name), seed)
        if method == "index_timestep_zero":
            tensors = {key: value for key, value in lora.tensors.items() if not VECTORS.search(key)}
            assert 0 < len(tensors) < len(lora.tensors)
            lora = lora._replace(tensors=tensors)
        composed = compose(closed(name, cast), *cast, mode="couple", loras=((), (lora,)))
        results.append(sample(*composed))
    change = (results[0] - results[1]).abs()
    assert float(change[..., :6].max()) == 0
    assert float(change[..., 6:].max()) > 1e-3


def needed_rows(name, mode, cast, monkeypatch, batch=1):
    """Return what the host is told to make room for, in cells of latents."""
    cells = []

    def note(input_shape, cond_shapes=None):
        if cond_shapes is None:  # not what the host asks
            return 1.0
        shapes = [input_shape, *cond_shapes.get("ref_latents", [])]
        cells.append(sum(shape[0] * shape[-1] * shape[-2] for shape in shapes if len(shape) > 3))
        cells[-1] += sum(shape[0] * shape[-1] for shape in shapes if len(shape) == 3)
        return 1.0

    model, *conditionings = compose(model_of(name), *cast, mode=mode)
    with monkeypatch.context() as patched:
        patched.setattr(model.model, "memory_required", note)
        sample(model, *conditionings, steps=1, batch=batch, cfg=3.0)
    return cells[0]


def test_the_host_makes_room_for_all_images(monkeypatch):
    name, image_cells = "Flux.1 dev", 8 * 12
    of_people, everybodys = 8 * 8 + 4 * 12 + 12 * 8, 4 * 8
    cast = cast_of(name, None)
    assert needed_rows(name, "couple", cast, monkeypatch) == 2 * image_cells + of_people
    assert needed_rows(name, "exact", cast, monkeypatch) == 2 * image_cells + of_people
    cast = cast_of(name, None, shared=1)
    rows = 2 * 2 * image_cells  # of two images; people go one after the other
    largest = 8 * 8 + 4 * 12
    assert needed_rows(name, "exact", cast, monkeypatch, 2) >= rows + 2 * (largest + everybodys)
    everything = rows + 2 * (of_people + everybodys)
    assert needed_rows(name, "couple", cast, monkeypatch, 2) >= everything


@pytest.mark.parametrize(("mode", "together"), [("exact", 8 * 8 + 4 * 12), ("couple", 208)])
def test_a_stream_is_as_large_as_the_images_that_it_reads(mode, together):
    """So fewer people go through the network at once where their images are large."""
    name, image_cells, everybodys = "Flux.1 dev", 8 * 12, 4 * 8
    cast = cast_of(name, None, shared=1)
    model, positive, negative = compose(model_of(name), *cast, mode=mode)
    conds = {key: convert_cond(c) for key, c in (("positive", positive), ("negative", negative))}
    size = stream_size(model.get_attachment(KEY), conds, [3, 16, 8, 12])
    assert size == pytest.approx(1 + (together + everybodys) / image_cells)


# ---- refused in words


def refused(name, people, words, mode="exact"):
    prompts = cast_prompts(name)
    with pytest.raises(ValueError, match=words):
        compose(model_of(name), prompts, people, mode=mode)


def cast_prompts(name):
    return networks_of(name).text(name, 1), networks_of(name).text(name, 2)


def persons(name, *methods, channels=16):
    """Return people with one image each, by these methods."""
    images = [torch.zeros(1, channels, 4, 4)]
    return [
        with_images(networks_of(name).text(name, 5 + n), images, method)
        for n, method in enumerate(methods)
    ]


@pytest.mark.parametrize("mode", ["exact", "couple"])
@pytest.mark.parametrize("name", ["Chroma", "SD3", "Wan 2.1", "Anima"])
def test_networks_without_reference_latents(name, mode):
    if not knows(name):
        pytest.skip("this host does not know the model")
    people = [networks_of(name).text(name, 4), *persons(name, None)]
    refused(name, people, "^instance 2 carries reference latents, .* does not read", mode)


@pytest.mark.parametrize("name", [name for name in EXACT_ONLY if knows(name)])
def test_networks_without_positions_have_no_mode_couple_for_them(name):
    words = "^instance 1 carries reference latents, .*'couple' whose they are. Set mode to exact"
    refused(name, persons(name, None, None), words, "couple")


def test_methods_that_the_network_has_not():
    if knows("Flux.2 dev"):  # a host that knows the method
        words = "^instance 2 has the reference method 'index_timestep_zero', which Flux.1 can not"
        refused("Flux.1 dev", persons("Flux.1 dev", "index", "index_timestep_zero"), words)
    if knows("Krea 2"):
        words = "^instance 1 carries .* only by a method that is said"
        refused("Krea 2", persons("Krea 2", None), words)


def test_people_with_two_methods_are_for_the_mode_exact():
    name = "Qwen-Image"
    words = "^people have the reference methods .*'offset'.* but the mode couple .* mode to exact"
    refused(name, persons(name, None, "offset"), words, "couple")
    cast = cast_of(name, None)
    cast.people[1] = with_images(cast.people[1], method="offset")
    model, *conditionings = compose(model_of(name), *cast)
    model, chunks = watched(model)
    sample(model, *conditionings, steps=1)
    assert check_exact(model.model, chunks, *cast, Regions((HALVES,)).shares(8)) < CLOSE


@pytest.mark.skipif(not hasattr(nodes_flux, "FluxKVCache"), reason="this host has no such node")
@pytest.mark.parametrize("mode", ["exact", "couple"])
def test_a_cache_of_reference_images_is_everybodys(mode):
    name = "Flux.2 Klein"
    cached = nodes_flux.FluxKVCache.execute(model_of(name)).result[0]
    with pytest.raises(ValueError, match="^Compose Instances: Flux KV Cache would give everybody"):
        sample(*compose(cached, *cast_of(name, None), mode=mode))


@pytest.mark.parametrize("images", ["reference_latents", "unclip_conditioning"])
def test_the_node_refuses_images_that_the_model_does_not_read(images, mini_weights):
    model, clip = core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[:2]
    ((text, entry),) = core.CLIPTextEncode().encode(clip, "a man")[0]
    carried = {
        "reference_latents": [torch.zeros(1, 4, 8, 8)],
        "unclip_conditioning": [{"strength": 1.0}],
    }[images]
    prompt = [[text, {**entry, images: carried}]]
    instances = VitruvianAddInstance.execute(prompt, 0, 0, 1.0, torch.ones(1, 64, 64)).result[0]
    with pytest.raises(ValueError, match="^Compose Instances: instance 1 carries .* does not read"):
        compose_nodes.VitruvianComposeInstances.execute(
            model,
            [[text, entry]],
            [[text, entry]],
            instances,
            mode="couple",
            strength=1.0,
            harmony=0.5,
            dilation=0.06,
            start_percent=0.0,
            end_percent=1.0,
            background_prompt=compose_nodes.MEAN,
            shared_negative=True,
        )


def test_the_hosts_own_nodes_give_a_person_images():
    name = "Flux.1 dev"
    text = functools.partial(networks_of(name).text, name)
    append = nodes_edit_model.ReferenceLatent
    append = getattr(append, "append", None) or append.execute
    prompt, images = text(5), [image(name, n, 4, 8) for n in (1, 2)]
    for latent in images:
        prompt = append(prompt, {"samples": latent})
        prompt = getattr(prompt, "result", prompt)[0]
    ((_, entry),) = prompt
    assert all(map(torch.equal, entry["reference_latents"], images))
    area = torch.zeros(1, 64, 96)
    area[..., :48] = 1
    instances = VitruvianAddInstance.execute(prompt, 0, 0, 1.0, area).result[0]
    instances = VitruvianAddInstance.execute(text(6), 0, 0, 1.0, 1 - area, instances).result[0]
    prompts = text(1), text(2)
    composed = compose_nodes.VitruvianComposeInstances.execute(
        model_of(name),
        *prompts,
        instances,
        mode="exact",
        strength=1.0,
        harmony=0.0,
        dilation=0.06,
        start_percent=0.0,
        end_percent=1.0,
        background_prompt=compose_nodes.MEAN,
        shared_negative=True,
    ).result[:3]
    people = [with_images(text(5), images), text(6)]
    ours = compose(model_of(name), prompts, people)
    assert torch.equal(sample(*composed), sample(*ours))
