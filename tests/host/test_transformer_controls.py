"""Pose control on diffusion transformers, a tiny random control of each kind: what every person's
part of an image sees equals the host's own apply node with that person's skeleton.
"""

import comfy.controlnet
import comfy.latent_formats
import comfy.model_management
import pytest
import torch
from comfy.ldm.hydit.controlnet import HunYuanControlNet
from vitruvian.host import compose as host
from vitruvian.models import pose, pose_drawing
from vitruvian.models.compose import MERGED, Instance
from vitruvian.nodes import compose as ours
from vitruvian.tests.host import (
    other_networks,
    slow_compose,
    transformer_controls,
    transformer_networks,
)
from vitruvian.tests.host.transformer_compositions import (
    HALVES,
    SETTINGS,
    Regions,
    distance,
    sample,
    watched,
)
from vitruvian.tests.host.transformer_controls import CONTROLS, is_known, make_control, vae_of

import nodes as core

NAMES = [name for name in CONTROLS if is_known(name)]
controls = pytest.mark.parametrize("name", NAMES)
modes = pytest.mark.parametrize("mode", ["exact", "couple"])
CLOSE = 1e-5
FELT = 1e-3


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model_of():
    models = {}

    def model(name):
        family = CONTROLS[name].model
        if family not in models:
            models[family] = transformer_networks.make_model(family)
        return models[family]

    return model


def text(name, seed, tokens=20):
    return transformer_networks.text(CONTROLS[name].model, seed, tokens)


def prompts_of(name):
    positive = [[tokens, {**entry, "guidance": 2.5}] for tokens, entry in text(name, 1)]
    return positive, text(name, 2)


def drawing(person, width, height, frame=0):
    """Stand for the skeleton of a person, or everybody's, [1, height, width, 3]."""
    g = torch.Generator().manual_seed(100 + 10 * (person + 1) + frame)
    cells = torch.rand(1, 3, height // 8, width // 8, generator=g)
    return torch.nn.functional.interpolate(cells, (height, width)).movedim(1, -1)


def compose(name, model, prompts, people, regions=None, **changes):
    """MODEL, positive and negative of a composition with a control of this name."""
    regions = regions or Regions((HALVES,))
    frames = len(regions.frames)

    def hint(person, width, height):
        return torch.cat([drawing(person, width, height, frame) for frame in range(frames)])

    strength, settings = changes.pop("strength", 1.0), {**SETTINGS, **changes}
    composition = host.Composition(
        people=tuple(conditioning[0] for conditioning in people),
        masks=regions.masks,
        hint=settings.pop("hint", hint),
        canvas=(96, 64),
        order=(0,) * len(people),
        **settings,
    )
    control = composed_control(name, composition, strength)
    host.check_controls(model, control)
    return host.compose_model(model, composition), *host.attach(control, *prompts)


def composed_control(name, composition, strength=1.0, **changes):
    if name is None:
        return host.ComposedControl(None, composition, strength)
    vae, control = changes.get("vae", vae_of(name)), make_control(name)
    if CONTROLS[name].is_patch:
        return host.ComposedControl(None, composition, strength, vae, control)
    return host.ComposedControl(control, composition, strength, vae)


def plain(name, model, prompts, person, size=(8, 12), **settings):
    """The host's own apply node with the skeleton of a person or of everybody."""
    pads = CONTROLS[name].is_patch and not name.startswith("Qwen")  # to even numbers of cells
    height, width = (side + side % 2 if pads else side for side in size)
    image = drawing(person, 8 * width, 8 * height)
    return transformer_controls.apply(name, model, prompts, image, **settings)


def controlled(name, model, prompts, people, size=(8, 12)):
    """The conditioning entry of each person and of the negative, each with their own control."""
    positive, negative = prompts
    entries = []
    texts = [(person, number) for number, person in enumerate(people)] + [(negative, MERGED)]
    for prompt, number in texts:
        patched, applied, _ = plain(name, model, (positive, negative), number, size)
        entry = slow_compose.entry_of(applied)
        if prompt is negative:
            entry = {**slow_compose.entry_of(negative), "control": entry.get("control")}
        else:
            entry = slow_compose.with_text_of(entry, slow_compose.entry_of(prompt))
        entry = {**entry, "patches": transformer_controls.patches_of(patched)}
        if entry.get("control") is not None:
            entry["control"].pre_run(model.model, model.model.model_sampling.percent_to_sigma)
        entries.append(entry)
    return entries[:-1], entries[-1]


@controls
@pytest.mark.parametrize(
    "lengths, size, cfg", [((20, 20), (8, 12), 3.0), ((20, 33), (7, 11), 1.0)], ids=str
)
def test_exact_equals_a_slow_loop_over_people(name, model_of, lengths, size, cfg):
    if name == "Flux XLabs":  # the host's reads images of even numbers of cells
        size = tuple(side + side % 2 for side in size)
    model, prompts = model_of(name), prompts_of(name)
    people = [text(name, 5 + n, tokens) for n, tokens in enumerate(lengths)]
    regions = Regions((((0, 7), (4, size[1])),), size[1])
    composed, *conditionings = compose(name, model, prompts, people, regions, harmony=1.0)
    composed, chunks = watched(composed)
    sample(composed, *conditionings, size=size, cfg=cfg, steps=1)
    assert len(chunks) == (2 if cfg > 1 else 1)
    entries, negative = controlled(name, model, prompts, people, size)
    shares = regions.shares(size[0])
    for chunk in chunks:
        if chunk.positive:
            slow = slow_compose.composed(model.model, chunk.x, chunk.sigma, entries, shares)
        else:
            slow = slow_compose.plain(model.model, chunk.x, chunk.sigma, negative)
        assert distance(chunk.denoised, slow) < CLOSE


def test_a_latent_that_a_control_can_not_divide_is_refused(model_of):
    model, prompts = model_of("Flux XLabs"), prompts_of("Flux XLabs")
    composed = compose("Flux XLabs", model, prompts, [text("Flux XLabs", 5)] * 2)
    with pytest.raises(ValueError, match="multiples of 16 pixels, .* has 11 x 8 cells"):
        sample(*composed, size=(8, 11))


@controls
def test_every_image_of_a_batch_has_its_own_skeletons(name, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = [text(name, 5), text(name, 6, 33)]
    both = sample(*compose(name, model, prompts, people, Regions((HALVES, HALVES))), batch=2)
    first = drawing

    def second(person, width, height):
        return first(person, width, height, frame=1)

    alone = sample(*compose(name, model, prompts, people), batch=2)
    other = sample(*compose(name, model, prompts, people, hint=second), batch=2)
    assert distance(both, torch.cat((alone[:1], other[1:]))) < CLOSE
    assert distance(alone, other) > FELT


@controls
@modes
def test_equal_people_are_the_hosts_own_node(name, mode, model_of):
    """Two people with equal prompts and skeletons, also where they overlap and where nobody is."""
    model, prompts = model_of(name), prompts_of(name)

    def everybodys(_, width, height):
        return drawing(MERGED, width, height)

    composed = compose(
        name,
        model,
        prompts,
        [prompts[0], prompts[0]],
        Regions((((0, 7), (4, 10)),)),
        mode=mode,
        hint=everybodys,
        shared_negative=False,
        strength=0.8,
    )
    expected = sample(*plain(name, model, prompts, MERGED, strength=0.8), cfg=3.0)
    assert distance(sample(*composed, cfg=3.0), expected) < CLOSE


@controls
def test_couple_has_everybodys_skeleton(name, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = [prompts[0], text(name, 5)]
    regions = Regions((((0, 12), (0, 0)),))
    composed = sample(*compose(name, model, prompts, people, regions, mode="couple"), cfg=3.0)
    merged = sample(*plain(name, model, prompts, MERGED), cfg=3.0)
    assert distance(composed, merged) < CLOSE
    assert distance(composed, sample(*plain(name, model, prompts, 0), cfg=3.0)) > FELT


@controls
@modes
def test_strength_0_is_no_control(name, mode, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = [text(name, 5), text(name, 6)]
    none = sample(*compose(None, model, prompts, people, mode=mode), cfg=3.0)
    zero = sample(*compose(name, model, prompts, people, mode=mode, strength=0.0), cfg=3.0)
    one = sample(*compose(name, model, prompts, people, mode=mode), cfg=3.0)
    assert torch.equal(zero, none)
    assert distance(one, none) > FELT


@controls
@modes
def test_start_and_end_percent_are_those_of_the_hosts_node(name, mode, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = [prompts[0], text(name, 5)]
    regions = Regions((((0, 12), (0, 0)),))

    def everybodys(_, width, height):
        return drawing(MERGED, width, height)

    def sampled(start, end):
        window = {"start_percent": start, "end_percent": end}
        composed = compose(
            name, model, prompts, people, regions, mode=mode, hint=everybodys, **window
        )
        return sample(*composed, steps=4)

    without = sample(model, *prompts, steps=4)
    assert torch.equal(sampled(1.0, 1.0), without)
    if name in ("Qwen DiffSynth", "Z-Image Fun", "Z-Image Fun 2"):  # whose nodes have no window
        assert distance(sampled(0.0, 0.5), sampled(0.0, 1.0)) > FELT
        return
    for window in ((0.0, 0.5), (0.4, 1.0)):
        expected = sample(*plain(name, model, prompts, MERGED, window=window), steps=4)
        assert distance(sampled(*window), expected) < CLOSE
        assert distance(expected, without) > FELT


@controls
def test_a_second_sampling_and_a_clone_give_the_same(name, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = [text(name, 5), text(name, 6, 33)]
    composed, *conditionings = compose(name, model, prompts, people)
    first = sample(composed, *conditionings, cfg=3.0)
    assert torch.equal(sample(composed, *conditionings, cfg=3.0), first)
    assert torch.equal(sample(composed.clone(), *conditionings, cfg=3.0), first)
    assert torch.equal(sample(*compose(name, model, prompts, people), cfg=3.0), first)


@controls
def test_the_host_loads_the_control_beside_the_model(name, model_of, monkeypatch):
    model, prompts = model_of(name), prompts_of(name)
    comfy.model_management.unload_all_models()
    loads, load = [], comfy.model_management.load_models_gpu

    def note(models, *args, **kwargs):
        loads.append(list(models))
        return load(models, *args, **kwargs)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    sample(*compose(name, model, prompts, [text(name, 5), text(name, 6)]), steps=1)
    control = make_control(name)
    wrapped = control if CONTROLS[name].is_patch else control.control_model_wrapped
    assert any(each is wrapped for each in loads[0])


@controls
def test_it_adds_to_the_hosts_own_control_behind_it(name, model_of):
    """The same control once more on the outputs, by the host's node, with another drawing."""
    model, prompts = model_of(name), prompts_of(name)
    people = [prompts[0], text(name, 5)]
    regions = Regions((((0, 12), (0, 0)),))

    def everybodys(_, width, height):
        return drawing(MERGED, width, height)

    composed = compose(name, model, prompts, people, regions, hint=everybodys)
    both = sample(*applied_to(name, composed, person=3))
    expected = applied_to(name, applied_to(name, (model, *prompts), person=3), MERGED)
    assert distance(both, sample(*expected)) < CLOSE
    assert distance(both, sample(*composed)) > FELT


def applied_to(name, sampled, person):
    model, *prompts = sampled
    return plain(name, model, prompts, person)


def standing(height, width):
    """One person, as the ecosystem's POSE_KEYPOINT."""
    g = torch.Generator().manual_seed(6)
    points = torch.rand(18, 2, generator=g) * torch.tensor([0.8 * width, 0.8 * height])
    flat = [v for x, y in points.tolist() for v in (x, y, 1.0)]
    person = {"pose_keypoints_2d": flat}
    return [{"people": [person], "canvas_width": width, "canvas_height": height}]


def by_the_node(name, model, prompts, **changes):
    """Compose Instances with one person, whose prompt is the positive."""
    control = {"model_patch" if CONTROLS[name].is_patch else "control_net": make_control(name)}
    settings = {
        "mode": host.EXACT, "strength": 0.7, "harmony": 0.5, "dilation": 0.1,
        "start_percent": 0.0, "end_percent": 1.0, "background_prompt": ours.MEAN,
        "shared_negative": False, "pose": standing(64, 96), "vae": vae_of(name), **control,
    }  # fmt: skip
    return ours.VitruvianComposeInstances.execute(
        model, *prompts, (Instance(prompts[0], 1),), **{**settings, **changes}
    ).result[:3]


@controls
def test_one_person_by_our_node_is_the_hosts_own_node(name, model_of):
    model, prompts = model_of(name), prompts_of(name)
    people = pose.read_poses(standing(64, 96))[0]
    image = pose_drawing.draw_people(people, 96, 64)[None]
    applied = transformer_controls.apply(name, model, prompts, image, strength=0.7)
    composed = sample(*by_the_node(name, model, prompts), cfg=3.0)
    assert distance(composed, sample(*applied, cfg=3.0)) < CLOSE


@controls
def test_our_node_says_what_does_not_fit(name, model_of):
    model, prompts = model_of(name), prompts_of(name)
    if CONTROLS[name].latent_format:
        with pytest.raises(ValueError, match="Compose Instances: .*the input 'vae'"):
            by_the_node(name, model, prompts, vae=None)
    other = transformer_networks.make_model("Lumina 2")
    texts = [transformer_networks.text("Lumina 2", seed) for seed in (1, 2)]
    with pytest.raises(
        ValueError, match="Compose Instances: the input '(control_net|model_patch)'"
    ):
        by_the_node(name, other, texts)


latent_controls = pytest.mark.parametrize("name", [n for n in NAMES if CONTROLS[n].latent_format])


@latent_controls
def test_a_control_that_reads_latents_asks_for_the_vae(name, model_of):
    words = "input '(control_net|model_patch)' is a control that reads latents.*input 'vae'"
    with pytest.raises(ValueError, match=words):
        host.check_controls(model_of(name), composed_control(name, composition_of(name), vae=None))


@latent_controls
def test_a_vae_of_another_model_is_refused(name, model_of):
    reads_images = transformer_controls.image_vae(16)
    reads_videos = transformer_controls.VideoVae()
    other = reads_images if CONTROLS[name].latent_format == "Wan21" else reads_videos
    for vae in (transformer_controls.image_vae(4), other):
        control = composed_control(name, composition_of(name), vae=vae)
        with pytest.raises(ValueError, match="the input 'vae' is of another model"):
            host.check_controls(model_of(name), control)


def composition_of(name):
    return host.Composition(
        people=(text(name, 5)[0],),
        masks=Regions((((0, 12),),)).masks,
        hint=drawing,
        canvas=(96, 64),
        order=(0,),
        **SETTINGS,
    )


@controls
@pytest.mark.parametrize("family", transformer_networks.NETWORKS)
def test_a_control_of_another_family_is_refused(name, family):
    if not transformer_networks.is_known(family):
        pytest.skip("this host does not know the family")
    model = transformer_networks.make_model(family)
    control = composed_control(name, composition_of(name))
    if family in FITS[name]:
        host.check_controls(model, control)
        return
    input_name = "model_patch" if CONTROLS[name].is_patch else "control_net"
    with pytest.raises(ValueError, match=f"the input '{input_name}' is for .*(Connect|Use)"):
        host.check_controls(model, control)


FLUX1 = {"Flux.1 dev", "Flux.1 schnell", "Flux.1 Fill", "Chroma"}
FITS = {
    "Flux InstantX": FLUX1,
    "Flux union": FLUX1,
    "Flux XLabs": FLUX1,
    "Flux on Chroma": FLUX1,
    "SD3 InstantX": {"SD3", "SD3.5"},
    "SD3.5": {"SD3", "SD3.5"},
    "Qwen InstantX": {"Qwen-Image"},
    "Qwen Fun": {"Qwen-Image"},
    "Qwen DiffSynth": {"Qwen-Image"},
    "Z-Image Fun": {"Z-Image"},
    "Z-Image Fun 2": {"Z-Image"},
    "Anima LLLite": {"Anima"},
}


def test_hunyuan_dits_control_composes_by_person():
    """Its ControlNet reads both texts of a person with their masks."""
    model = other_networks.make_model("HunyuanDiT")
    prompts = tuple(other_networks.text("HunyuanDiT", seed) for seed in (1, 2))
    person = other_networks.text("HunyuanDiT", 3)
    config = other_networks.OTHERS["HunyuanDiT"].config
    network = HunYuanControlNet(**{**config, **transformer_controls.FLOAT})
    skips = config["depth"] // 2 - 1  # the host fixes as many as the real network has
    network.blocks = network.blocks[:skips]
    network.after_proj_list = network.after_proj_list[:skips]
    transformer_networks.randomize(network, 11)
    control_net = comfy.controlnet.ControlNet(
        network,
        compression_ratio=1,
        latent_format=comfy.latent_formats.SDXL(),
        load_device=transformer_networks.CPU,
        extra_conds=[
            "text_embedding_mask",
            "encoder_hidden_states_t5",
            "text_embedding_mask_t5",
            "image_meta_size",
        ],
    )
    vae = transformer_controls.image_vae(4)
    composition = host.Composition(
        people=(prompts[0][0], person[0]),
        masks=Regions((((0, 0), (0, 12)),)).masks,
        hint=drawing,
        canvas=(96, 64),
        order=(0, 0),
        **SETTINGS,
    )
    control = host.ComposedControl(control_net, composition, 1.0, vae)
    host.check_controls(model, control)
    composed = host.compose_model(model, composition), *host.attach(control, *prompts)
    applied = core.ControlNetApplyAdvanced().apply_controlnet(
        person, prompts[1], control_net, drawing(1, 96, 64), 1.0, 0.0, 1.0, vae=vae
    )
    expected = sample(model, *applied)
    assert distance(sample(*composed), expected) < CLOSE
    assert distance(expected, sample(model, person, prompts[1])) > FELT
