"""The structure-guided refiner on the host: against diffusers, the stock nodes and slow sums."""

import copy
from itertools import pairwise

import comfy.controlnet
import folder_paths
import pytest
import torch
from vitruvian.host import refiner as host
from vitruvian.host.registration import register
from vitruvian.lab.training import convert, preview
from vitruvian.lab.training import refiner as training
from vitruvian.models import refiner, weights
from vitruvian.models.refiner import CONDITIONS, SummedEmbedders
from vitruvian.nodes import refiner as ours

import nodes as core

register()
SIZE = 64
CPU = torch.device("cpu")
PROMPT = "a man in a park"
POSE_FILE = "vitruvian_mini_openpose.safetensors"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def untrained(mini_weights):
    """A refiner at the start of training: its pose ControlNet."""
    return training.start_refiner(convert.load_controlnet(preview.POSE_CONTROLNET))


@pytest.fixture(scope="module")
def trained(untrained):
    """A refiner for which every condition counts."""
    network, g = copy.deepcopy(untrained), torch.Generator().manual_seed(3)
    for name, p in network.named_parameters():
        if name.startswith(training.EMBEDDING):
            p.data += 0.1 * torch.randn(p.shape, generator=g)
    return network


@pytest.fixture(scope="module")
def file(trained, tmp_path_factory):
    path = tmp_path_factory.mktemp("refiner") / "trained.safetensors"
    training.save_refiner(trained, path, "mini", torch.float32)
    return path


@pytest.fixture
def net(file):
    return host.load(file)


def condition_images(b=1, h=SIZE, w=SIZE, seed=1):
    """Random images by condition."""
    g = torch.Generator().manual_seed(seed)
    return {condition: torch.rand(b, h, w, 3, generator=g) for condition in CONDITIONS}


def conditionings(loaded):
    return [core.CLIPTextEncode().encode(loaded[1], words)[0] for words in (PROMPT, "")]


def apply(loaded, images=(), *, conds=None, strength=1.0, start=0.0, end=1.0, **inputs):
    conds = conds or conditionings(loaded)
    inputs |= {f"{condition}_image": image for condition, image in dict(images).items()}
    return ours.VitruvianApplyStructureRefiner.execute(
        *conds, strength, start, end, **inputs
    ).result


def stock(loaded, net, image, conds=None, strength=1.0, start=0.0, end=1.0):
    conds = conds or conditionings(loaded)
    node = core.ControlNetApplyAdvanced()
    return node.apply_controlnet(*conds, net, image, strength, start, end)


def sample(loaded, conds, b=1, h=SIZE, w=SIZE, cfg=3.0):
    latent = {"samples": torch.zeros(b, 4, h // 8, w // 8)}
    sampled = core.common_ksampler(loaded[0], 7, 2, cfg, "euler", "normal", *conds, latent)
    return sampled[0]["samples"]


def inputs(b=2, side=SIZE // 8):
    g = torch.Generator().manual_seed(4)
    hint = refiner.stack_hint({k: p.movedim(-1, 1) for k, p in condition_images(b).items()})
    x, context = torch.randn(b, 4, side, side, generator=g), torch.randn(b, 77, 192, generator=g)
    return x, hint, torch.tensor([10.0, 800.0]), context


def test_the_host_predicts_what_diffusers_does(net, trained):
    x, hint, t, context = inputs()
    output = net.control_model(x=x, hint=hint, timesteps=t, context=context)
    down, middle = trained(x, t, context, hint, return_dict=False)
    for one, other in zip([*output["output"], *output["middle"]], [*down, middle], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_same_image_as_the_trainers_preview(loaded, net, trained):
    images = condition_images()
    latent = sample(loaded, apply(loaded, images, refiner=net))
    image = core.VAEDecode().decode(loaded[2], {"samples": latent})[0].movedim(-1, 1)
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    hint = refiner.stack_hint({k: p.movedim(-1, 1) for k, p in images.items()})
    expected = preview.sample(
        checkpoint, PROMPT, hint, trained, sampling=preview.Sampling(7, 2, 3.0), size=(SIZE, SIZE)
    )
    torch.testing.assert_close(image, expected, atol=1e-3, rtol=0)


def test_the_embeddings_are_summed(net, trained):
    x, hint, _, context = inputs()
    block = net.control_model.input_hint_block
    slow_sum = torch.zeros_like(block(hint, x, context))
    for k, condition in enumerate(CONDITIONS):
        slow_sum += trained.controlnet_cond_embedding[condition](hint[:, 3 * k : 3 * k + 3])
    torch.testing.assert_close(block(hint, x, context), slow_sum, atol=1e-4, rtol=1e-4)


def test_before_training_it_is_the_pose_controlnet_in_every_loader(loaded, untrained, tmp_path):
    path = tmp_path / "untrained.safetensors"
    training.save_refiner(untrained, path, "mini")
    images = condition_images()
    latent = sample(loaded, apply(loaded, images, refiner=host.load(path)))
    plain = core.ControlNetLoader().load_controlnet(POSE_FILE)[0]
    read_as_plain = comfy.controlnet.load_controlnet(str(path))
    for other in (plain, read_as_plain):
        assert torch.equal(latent, sample(loaded, stock(loaded, other, images["pose"])))


def test_a_missing_image_is_a_black_one(loaded, net):
    images = condition_images()
    complete = sample(loaded, apply(loaded, images, refiner=net))
    for missing in CONDITIONS:
        incomplete = {k: p for k, p in images.items() if k != missing}
        black = {**images, missing: torch.zeros_like(images[missing])}
        latent = sample(loaded, apply(loaded, incomplete, refiner=net))
        assert torch.equal(latent, sample(loaded, apply(loaded, black, refiner=net)))
        assert not torch.allclose(latent, complete, atol=1e-3)


@pytest.mark.parametrize("single", CONDITIONS)
def test_the_stock_node_gives_the_single_condition(loaded, file, single):
    net, image = host.load(file, single), condition_images()["depth"]
    latent = sample(loaded, stock(loaded, net, image))
    assert torch.equal(latent, sample(loaded, apply(loaded, {single: image}, refiner=net)))


def test_three_controlnets_are_the_stock_nodes_one_behind_the_other(loaded, file):
    plain = core.ControlNetLoader().load_controlnet(POSE_FILE)[0]
    nets = {"pose": plain, "depth": host.load(file, "depth"), "normal": host.load(file, "normal")}
    images = condition_images(h=72)
    connected = {f"{condition}_control_net": net for condition, net in nets.items()}
    settings = {"strength": 0.8, "depth_strength": 0.5, "start": 0.1, "end": 0.9}
    conds = apply(loaded, images, **settings, **connected)
    chained = stock(loaded, nets["pose"], images["pose"], None, 0.8, 0.1, 0.9)
    chained = stock(loaded, nets["depth"], images["depth"], chained, 0.4, 0.1, 0.9)
    chained = stock(loaded, nets["normal"], images["normal"], chained, 0.8, 0.1, 0.9)
    assert torch.equal(sample(loaded, conds), sample(loaded, chained))
    images["depth"] = None
    incomplete = apply(loaded, images, **connected, normal_strength=0.0)
    only = stock(loaded, nets["pose"], images["pose"])
    assert torch.equal(sample(loaded, incomplete), sample(loaded, only))


def test_a_controlnet_before_it_stays_at_work(loaded, net):
    plain = core.ControlNetLoader().load_controlnet(POSE_FILE)[0]
    images = condition_images()
    before = stock(loaded, plain, images["pose"])
    chained = apply(loaded, images, conds=before, refiner=net)
    assert [c.control_model for c in chain(chained)] == [net.control_model, plain.control_model]
    assert not torch.equal(sample(loaded, chained), sample(loaded, before))


def chain(conds):
    control = conds[0][0][1]["control"]
    while control:
        yield control
        control = control.previous_controlnet


def test_strength_0_changes_nothing(loaded, net):
    conds = conditionings(loaded)
    unchanged = apply(loaded, conds=conds, strength=0.0, refiner=net, images=condition_images())
    assert all(a is b for a, b in zip(unchanged, conds, strict=True))
    stacked = apply(
        loaded, conds=conds, strength=0.0, pose_control_net=net, images=condition_images()
    )
    assert all(a is b for a, b in zip(stacked, conds, strict=True))


@pytest.mark.parametrize(("h", "w", "cfg"), [(64, 64, 3.0), (104, 88, 3.0), (72, 104, 1.0)])
def test_batches_and_odd_sizes(loaded, net, h, w, cfg):
    images = condition_images(2, h, w)
    images["pose"] = images["pose"][:1]
    conds = apply(loaded, images, refiner=net)
    together = sample(loaded, conds, 2, h, w, cfg)
    control = conds[0][0][1]["control"]
    assert control.cond_hint_original.shape == (2, 9, h, w)
    assert torch.equal(control.cond_hint_original[0, :3], control.cond_hint_original[1, :3])
    alone = apply(loaded, {k: p[:1] for k, p in images.items()}, refiner=net)
    torch.testing.assert_close(
        together[:1], sample(loaded, alone, 2, h, w, cfg)[:1], atol=1e-3, rtol=1e-3
    )


def test_images_of_different_sizes_become_as_the_largest(loaded, net):
    images = condition_images(h=48, w=80)
    images["pose"] = torch.full((1, 24, 24, 4), 0.25)  # transparency is of no meaning
    images["depth"] = condition_images(h=96, w=160)["depth"]
    hint = apply(loaded, images, refiner=net)[0][0][1]["control"].cond_hint_original
    assert hint.shape == (1, 9, 96, 160)
    torch.testing.assert_close(hint[:, :3], torch.full((1, 3, 96, 160), 0.25))
    assert torch.equal(hint[:, 3:6], images["depth"].movedim(-1, 1))
    small = torch.nn.functional.avg_pool2d(hint[:, 6:], 2)
    assert (small - images["normal"].movedim(-1, 1)).abs().mean() < 0.2


def test_split_batches_give_the_same_image(loaded, net, monkeypatch):
    conds = apply(loaded, condition_images(2), refiner=net)
    together = sample(loaded, conds, 2)
    rows, block = [], net.control_model.input_hint_block
    monkeypatch.setattr(loaded[0].model, "memory_required", lambda *_, **__: 1e18)
    handle = block.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    torch.testing.assert_close(sample(loaded, conds, 2), together, atol=1e-3, rtol=1e-3)
    handle.remove()
    assert set(rows) == {2}  # a image per row of the batch, positive and negative apart


def test_low_memory_casts_the_embedders_as_other_layers(net):
    x, hint, t, context = inputs()
    expected = net.control_model(x=x, hint=hint, timesteps=t, context=context)["middle"][0]
    patcher = net.control_model_wrapped
    patcher.load(CPU, lowvram_model_memory=1)
    layers = [m for m in net.control_model.input_hint_block.modules() if hasattr(m, "weight")]
    assert len(layers) == 3 * 8 and all(layer.comfy_cast_weights for layer in layers)
    output = net.control_model(x=x, hint=hint, timesteps=t, context=context)["middle"][0]
    assert torch.equal(output, expected)
    patcher.detach()


def test_the_patcher_counts_the_embedders(net):
    tensors = net.control_model.state_dict()
    assert sum("input_hint_block.depth." in name for name in tensors) == 16
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert net.control_model_wrapped.model_size() == size


def test_copies_cleanup_and_running_again(loaded, net):
    conds = apply(loaded, condition_images(), refiner=net)
    first = sample(loaded, conds)
    control = conds[0][0][1]["control"]
    assert control.cond_hint is None and control.get_models() == [net.control_model_wrapped]
    assert torch.equal(first, sample(loaded, conds))
    assert torch.equal(first, sample(loaded, apply(loaded, condition_images(), refiner=net.copy())))
    if hasattr(control, "deepclone_multigpu"):
        clone = control.deepclone_multigpu(CPU)
        block = clone.control_model.input_hint_block
        assert isinstance(block, SummedEmbedders) and block.single == "normal"
        assert block["depth"] is not net.control_model.input_hint_block["depth"]


def test_half_precision_is_the_hosts(trained, tmp_path):
    path = tmp_path / "half.safetensors"
    training.save_refiner(trained, path, "mini")
    net = host.load(path)
    kinds = {p.dtype for p in net.control_model.parameters()}
    assert kinds == {net.control_model.dtype}
    x, hint, t, context = (v.float() for v in inputs())
    dtype = net.manual_cast_dtype or net.control_model.dtype
    inputs_by_name = {"x": x, "hint": hint, "timesteps": t, "context": context}
    output = net.control_model(**{k: v.to(dtype) for k, v in inputs_by_name.items()})["middle"][0]
    expected = trained(x, t, context, hint, return_dict=False)[1]
    torch.testing.assert_close(output.float(), expected, atol=0.05, rtol=0.05)


def test_every_family(family, random_text):
    """SD1.5, SD2, SDXL: the sum of embeddings, added where the ControlNet's only one was."""
    model, plain = family
    net = comfy.controlnet.ControlNet(copy.deepcopy(plain.control_model), load_device=CPU)
    tensors = refiner.refiner_from_controlnet(net.control_model.state_dict())
    g = torch.Generator().manual_seed(5)
    for name, tensor in tensors.items():
        if not refiner.is_controlnet(name):
            tensors[name] = tensor + 0.05 * torch.randn(tensor.shape, generator=g)
    net = host.add_embedders(net, tensors)
    images = condition_images(h=SIZE, w=SIZE + 16)
    conds = ours.VitruvianApplyStructureRefiner.execute(
        random_text(model, 1),
        random_text(model, 2),
        1.0,
        0.0,
        1.0,
        refiner=net,
        **{f"{k}_image": p for k, p in images.items()},
    ).result
    latent = {"samples": torch.zeros(1, 4, SIZE // 8, SIZE // 8 + 2)}

    def run(conds):
        out = core.common_ksampler(model, 3, 1, 4.0, "euler", "normal", *conds, latent)
        return out[0]["samples"]

    latents = run(conds)
    block = plain.control_model.input_hint_block

    def slow_sum(hint, emb, context):
        """As the host's layers do, one convolution after the other."""
        total = 0
        for k, condition in enumerate(CONDITIONS):
            embedder = refiner.embedder_tensors(tensors, condition)
            numbers = sorted({int(name.split(".")[0]) for name in embedder})
            h = hint[:, 3 * k : 3 * k + 3]
            for n, after in pairwise([*numbers, None]):
                stride = block[n].stride
                weight, bias = embedder[f"{n}.weight"], embedder[f"{n}.bias"]
                h = torch.nn.functional.conv2d(h, weight, bias, stride=stride, padding=1)
                h = h if after is None else torch.nn.functional.silu(h)
            total = total + h
        return total

    reference = comfy.controlnet.ControlNet(copy.deepcopy(plain.control_model), load_device=CPU)
    reference.control_model.input_hint_block = Called(slow_sum)
    stacked = torch.cat([images[condition] for condition in CONDITIONS], -1)
    expected = run(
        core.ControlNetApplyAdvanced().apply_controlnet(
            random_text(model, 1), random_text(model, 2), reference, stacked, 1.0, 0.0, 1.0
        )
    )
    assert latents.isfinite().all()
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def test_the_loader_node(file, loaded, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda *_: str(file))
    net = ours.VitruvianLoadStructureRefiner.execute("trained.safetensors", "pose").result[0]
    assert net.control_model.input_hint_block.single == "pose"
    for node in ours.NODES:
        schema = node.define_schema()
        assert all(put.tooltip for put in [*schema.inputs, *schema.outputs])


def test_wrong_files_are_named(trained, tmp_path, monkeypatch):
    def refused(name, words):
        path = tmp_path / name
        monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda *_: str(path))
        with pytest.raises(ValueError, match=f"(?s)Load Structure Refiner: .*{name}: .*{words}"):
            ours.VitruvianLoadStructureRefiner.execute(name, "normal")

    facts = {"method": "refiner", "version": 1, "base": "mini"}
    tensors = convert.rename_tensors(trained, training.refiner_names, "")
    refused("missing.safetensors", "found no file")
    weights.save(tmp_path / "prior.safetensors", tensors, {**facts, "method": "human_prior"})
    refused("prior.safetensors", "'refiner', found 'human_prior'")
    weights.save(tmp_path / "new.safetensors", tensors, {**facts, "version": 2})
    refused("new.safetensors", "Update Vitruvian")
    weights.save(tmp_path / "other.safetensors", {"weight": torch.zeros(1)}, facts)
    refused("other.safetensors", "")
    incomplete = {k: t for k, t in tensors.items() if not k.startswith("hint.depth.")}
    weights.save(tmp_path / "lacking.safetensors", incomplete, facts)
    refused("lacking.safetensors", "expected a structure refiner")
    bad = {**tensors, "hint.depth.input_hint_block.0.weight": torch.zeros(1, 3, 3, 3)}
    weights.save(tmp_path / "bad.safetensors", bad, facts)
    refused("bad.safetensors", "expected a structure refiner")


def test_wrong_inputs(loaded, net):
    plain = core.ControlNetLoader().load_controlnet(POSE_FILE)[0]
    images = condition_images()
    with pytest.raises(ValueError, match="Apply Structure Refiner: the input 'refiner' is another"):
        apply(loaded, images, refiner=plain)
    with pytest.raises(ValueError, match="Apply Structure Refiner: there is no image: connect"):
        apply(loaded, refiner=net)
    with pytest.raises(ValueError, match="no ControlNet has its image. Connect 'refiner'"):
        apply(loaded, images)
    with pytest.raises(ValueError, match="no ControlNet has its image"):
        apply(loaded, {"pose": images["pose"]}, depth_control_net=plain)
    with pytest.raises(
        ValueError, match="'end_percent' .0.2. must be greater than 'start_percent' .0.5."
    ):
        apply(loaded, images, refiner=net, start=0.5, end=0.2)
    with pytest.raises(ValueError, match="9 channels, or one image of 3, but it got 4"):
        sample(loaded, stock(loaded, net, torch.ones(1, SIZE, SIZE, 4)))
