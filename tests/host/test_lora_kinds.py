"""What every kind of LoRA adds to a layer's output, against the weight that the host merges."""

import copy
import json
from types import SimpleNamespace

import comfy.lora
import comfy.ops
import pytest
import torch
from torch import Generator, nn
from torch.utils.flop_counter import FlopCounterMode
from vitruvian.host.lora_files import add_changes, layer_changes
from vitruvian.models.compose import PersonLora

CPU, F32, RANK = torch.device("cpu"), torch.float32, 4
CLOSE = 1e-5
LAYERS = {  # each with 24 or 8 channels as input
    "linear": lambda ops: ops.Linear(24, 32),
    "convolution": lambda ops: ops.Conv2d(8, 16, 3, stride=2, padding=1),
    "wide": lambda ops: ops.Conv2d(8, 16, (3, 5), padding=(3, 4), dilation=2),
    "one": lambda ops: ops.Conv2d(8, 16, 1),
    "line": lambda ops: ops.Conv1d(8, 16, 3, padding=1),
    "video": lambda ops: ops.Conv3d(8, 16, (1, 2, 2), stride=(1, 2, 2)),
    "torus": lambda ops: nn.Conv2d(8, 16, 3, padding=1, padding_mode="circular"),
    "groups": lambda ops: nn.Conv2d(8, 16, 3, padding=1, groups=2),
    "norm": lambda ops: ops.LayerNorm(24),
}
ALL = [name for name in LAYERS if name != "norm"]
FLAT = ["linear", "convolution", "wide", "one", "torus"]  # what the host merges all kinds on


class Base(nn.Module):
    """What the host's loader of LoRAs asks of a model: one layer of each sort."""

    def __init__(self, ops=comfy.ops.disable_weight_init):
        super().__init__()
        self.diffusion_model = nn.ModuleDict({name: make(ops) for name, make in LAYERS.items()})
        self.model_config = SimpleNamespace(unet_config={})
        g = Generator().manual_seed(1)
        for p in self.parameters():
            p.data = torch.randn(p.shape, generator=g) * (0.2 if p.ndim > 1 else 0.5)


def low_rank(r, rows, columns, shape):
    return {"lora_up.weight": r(rows, RANK), "lora_down.weight": r(RANK, columns)}


def locon(r, rows, columns, shape):
    """In the shapes of a convolution's weights, also for a linear layer."""
    tail = [1] * (len(shape) - 2) or [1, 1]
    return {
        "lora_up.weight": r(rows, RANK, *tail),
        "lora_down.weight": r(RANK, *(shape[1:] if len(shape) > 2 else (columns, 1, 1))),
    }


def mid(r, rows, columns, shape):
    return {
        "lora_up.weight": r(rows, RANK, 1, 1),
        "lora_down.weight": r(RANK, shape[1], 1, 1),
        "lora_mid.weight": r(RANK, RANK, *shape[2:]),
    }


def loha(r, rows, columns, shape):
    names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    sizes = ((rows, RANK), (RANK, columns)) * 2
    return {name: r(*size) for name, size in zip(names, sizes, strict=True)}


def loha_core(r, rows, columns, shape):
    sides = {
        f"hada_w{i}_{s}": r(RANK, c) for i in (1, 2) for s, c in (("a", rows), ("b", shape[1]))
    }
    return {**sides, **{f"hada_t{i}": r(RANK, RANK, *shape[2:]) for i in (1, 2)}}


def lokr(r, rows, columns, shape):
    return {"lokr_w1": r(4, 2), "lokr_w2": r(rows // 4, shape[1] // 2, *shape[2:])}


def lokr_low(r, rows, columns, shape):
    """The first factor of low rank, the second too."""
    return {
        **{"lokr_w1_a": r(4, 2), "lokr_w1_b": r(2, 2)},
        **{"lokr_w2_a": r(rows // 4, RANK), "lokr_w2_b": r(RANK, columns // 2)},
    }


def lokr_core(r, rows, columns, shape):
    return {
        "lokr_w1": r(4, 2),
        "lokr_w2_a": r(RANK, rows // 4),
        "lokr_w2_b": r(RANK, shape[1] // 2),
        "lokr_t2": r(RANK, RANK, *shape[2:]),
    }


def dora(of):
    def file(r, rows, columns, shape):
        norms = r(rows, *[1] * (len(shape) - 1)).abs() + 0.5
        return {**of(r, rows, columns, shape), "dora_scale": norms}

    return file


def oft(r, rows, columns, shape):
    return {"oft_blocks": r(rows // 4, 4, 4)}


def difference(r, rows, columns, shape):
    return {"diff": r(*shape), "diff_b": r(rows)}


KINDS = {  # the file's tensors, and the layers that the host merges them on
    "lora": (low_rank, ALL),
    "locon": (locon, ALL),
    "mid": (mid, ["convolution", "torus", "one"]),
    "loha": (loha, ALL),
    "loha core": (loha_core, ["convolution", "torus", "one"]),
    "lokr": (lokr, FLAT),
    "lokr low": (lokr_low, FLAT),
    "lokr core": (lokr_core, ["convolution", "torus", "one"]),
    "dora": (dora(low_rank), ALL[:-1]),
    "dora of loha": (dora(loha), FLAT),
    "dora of lokr": (dora(lokr), FLAT),
    "oft": (oft, ALL),
    "difference": (difference, ALL),
}
CASES = [(kind, layer) for kind, (_, layers) in KINDS.items() for layer in layers]
kinds = pytest.mark.parametrize("kind, layer", CASES)
LINEAR_KINDS = [kind for kind, (_, layers) in KINDS.items() if "linear" in layers]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def base():
    return Base()


def lora_of(kind, base, layer, seed=2, strength=0.7, alpha: float | None = 2.0):
    """A PersonLora of a file of this kind for one layer."""
    g = Generator().manual_seed(seed)
    weight = base.diffusion_model[layer].weight
    tensors = KINDS[kind][0](
        lambda *size: torch.randn(size, generator=g) * 0.4,
        weight.shape[0],
        weight[0].numel(),
        weight.shape,
    )
    if alpha is not None:
        tensors["alpha"] = torch.tensor(alpha)
    named = {f"diffusion_model.{layer}.{name}": value for name, value in tensors.items()}
    return PersonLora(f"{kind}.safetensors", named, strength, 1.0)


def merged(base, layer, *loras):
    """The layer with the weights that the host merges, one file after the other."""
    twin = copy.deepcopy(base.diffusion_model[layer])
    for lora in loras:
        names = comfy.lora.model_lora_keys_unet(base, {})
        patches = comfy.lora.load_lora(dict(lora.tensors), names)
        for name in ("weight", "bias"):
            patch = patches.get(f"diffusion_model.{layer}.{name}")
            if patch is not None:
                parameter = getattr(twin, name)
                parameter.data = comfy.lora.calculate_weight(
                    [(lora.strength, patch, 1.0, None, None)], parameter.data.float(), name
                )
    return twin


def loaded_changes(base, layer, *loras, dtype=F32):
    """The changes of these files for one layer, ready to use."""
    changes = layer_changes(SimpleNamespace(model=base), loras)
    assert set(changes) <= {layer}
    return [change.to(CPU, dtype) for change in changes.get(layer, ())]


def an_input(layer, rows=3, seed=5):
    size = {"linear": (10, 24), "line": (8, 9), "video": (8, 2, 6, 8)}.get(layer, (8, 9, 11))
    return torch.randn(rows, *size, generator=Generator().manual_seed(seed))


def error(a, b):
    return float((a - b).abs().max() / b.abs().max())


@kinds
@pytest.mark.parametrize("alpha", [2.0, None])
def test_output_and_change_are_those_of_the_merged_weight(base, kind, layer, alpha):
    lora, x = lora_of(kind, base, layer, alpha=alpha), an_input(layer)
    plain, want = base.diffusion_model[layer](x), merged(base, layer, lora)(x)
    assert error(plain, want) > 0.02  # there is something to see
    changes = loaded_changes(base, layer, lora)
    assert error(add_changes(plain.clone(), x, changes), want) < CLOSE
    if len(changes) == 1:
        assert error(plain + changes[0].added(x, plain), want) < CLOSE


@pytest.mark.parametrize("second", LINEAR_KINDS)
@pytest.mark.parametrize("first", LINEAR_KINDS)
def test_two_files_after_each_other_are_merged_after_each_other(base, first, second):
    loras = [lora_of(first, base, "linear"), lora_of(second, base, "linear", 3, -0.4)]
    x = an_input("linear")
    want = merged(base, "linear", *loras)(x)
    output = base.diffusion_model["linear"](x)
    assert error(add_changes(output, x, loaded_changes(base, "linear", *loras)), want) < CLOSE


@pytest.mark.parametrize("first, second", [("lora", "dora"), ("dora", "oft"), ("oft", "dora")])
def test_two_files_on_a_convolution(base, first, second):
    loras = [lora_of(first, base, "convolution"), lora_of(second, base, "convolution", 3)]
    x = an_input("convolution")
    want = merged(base, "convolution", *loras)(x)
    output = base.diffusion_model["convolution"](x)
    assert error(add_changes(output, x, loaded_changes(base, "convolution", *loras)), want) < CLOSE


@kinds
def test_a_weight_mixes_the_plain_and_the_merged_output(base, kind, layer):
    lora, x = lora_of(kind, base, layer), an_input(layer)
    plain, want = base.diffusion_model[layer](x), merged(base, layer, lora)(x)
    sizes = (*plain.shape[:-1], 1) if layer == "linear" else (3, 1, *plain.shape[2:])
    weight = torch.rand(sizes, generator=Generator().manual_seed(6))
    mixed = add_changes(plain.clone(), x, loaded_changes(base, layer, lora), weight)
    assert error(mixed, weight * want + (1 - weight) * plain) < CLOSE


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_two_people_share_what_each_adds_to_the_plain_output(base, kind):
    people = [lora_of(kind, base, "linear"), lora_of(kind, base, "linear", 3)]
    x = an_input("linear")
    plain = base.diffusion_model["linear"](x)
    share = torch.rand(1, 10, 1, generator=Generator().manual_seed(6))
    output = plain.clone()
    for person, weight in zip(people, (share, 1 - share), strict=True):
        add_changes(output, x, loaded_changes(base, "linear", person), weight, plain)
    first, second = (merged(base, "linear", person)(x) for person in people)
    assert error(output, share * first + (1 - share) * second) < CLOSE


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_rows_and_tokens_are_computed_alone(base, kind):
    change = loaded_changes(base, "linear", lora_of(kind, base, "linear"))[0]
    x = an_input("linear")
    plain = base.diffusion_model["linear"](x)
    added = change.added(x, plain).expand_as(plain)
    part = change.added(x[1:, 2:5], plain[1:, 2:5])
    assert torch.allclose(part.expand(2, 3, -1), added[1:, 2:5], atol=1e-6)
    cells = x.reshape(3, 1, 2, 5, 24)
    cells_added = change.added(cells, plain.reshape(3, 1, 2, 5, 32))
    assert torch.allclose(cells_added.expand(3, 1, 2, 5, 32).reshape(3, 10, 32), added, atol=1e-6)


@pytest.mark.parametrize("kind", ["lora", "lokr", "dora", "oft"])
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_weights_in_float8_are_neither_read_nor_changed(kind, layer):
    base = Base(comfy.ops.manual_cast)
    stored = base.diffusion_model[layer]
    stored.weight.data = stored.weight.data.to(torch.float8_e4m3fn)
    before = stored.weight.data.view(torch.uint8).clone()
    lora, x = lora_of(kind, base, layer), an_input(layer)
    want = merged(base, layer, lora)(x)
    assert error(add_changes(stored(x), x, loaded_changes(base, layer, lora)), want) < CLOSE
    assert torch.equal(stored.weight.data.view(torch.uint8), before)


def quantized(base):
    """The same with its linear layer in the host's wrapped float8, and the same dequantized."""
    if not hasattr(comfy.ops, "mixed_precision_ops"):
        pytest.skip("this host has no wrapped weights")
    wrapped, plain = copy.deepcopy(base), copy.deepcopy(base)
    layer = comfy.ops.mixed_precision_ops({}, F32, full_precision_mm=True).Linear(24, 32)
    stored = (base.diffusion_model["linear"].weight / 0.5).to(torch.float8_e4m3fn)
    settings = json.dumps({"format": "float8_e4m3fn"}).encode()
    layer.load_state_dict(
        {
            "weight": stored,
            "weight_scale": torch.tensor(0.5),
            "comfy_quant": torch.frombuffer(bytearray(settings), dtype=torch.uint8),
            "bias": base.diffusion_model["linear"].bias,
        }
    )
    wrapped.diffusion_model["linear"] = layer
    plain.diffusion_model["linear"].weight.data = stored.float() * 0.5
    return wrapped, plain


@pytest.mark.parametrize("kind", LINEAR_KINDS)
def test_wrapped_weights_are_not_asked(base, kind):
    wrapped, plain = quantized(base)
    lora, x = lora_of(kind, base, "linear"), an_input("linear")
    layer = wrapped.diffusion_model["linear"]
    assert type(layer.weight.data) is not torch.Tensor or type(layer.weight) is not nn.Parameter
    want = merged(plain, "linear", lora)(x)
    assert error(add_changes(layer(x), x, loaded_changes(wrapped, "linear", lora)), want) < CLOSE


@pytest.mark.parametrize("kind", ["lora", "loha", "lokr low", "dora", "oft"])
def test_half_precision_is_as_near_as_merging(base, kind):
    half = copy.deepcopy(base).to(torch.bfloat16)
    lora, x = lora_of(kind, base, "linear"), an_input("linear")
    want = merged(base, "linear", lora)(x)
    low = x.bfloat16()
    output = half.diffusion_model["linear"](low)
    changes = loaded_changes(half, "linear", lora, dtype=torch.bfloat16)
    added = add_changes(output, low, changes)
    as_merged = merged(half, "linear", lora).bfloat16()(low)
    assert added.dtype == torch.bfloat16
    assert (added - want).square().mean() < 2 * (as_merged - want).square().mean()


def test_a_change_takes_the_dtype_of_the_input(base):
    change = loaded_changes(base, "linear", lora_of("lora", base, "linear"), dtype=torch.bfloat16)[
        0
    ]
    x = an_input("linear")
    plain = base.diffusion_model["linear"](x)
    assert change.added(x, plain).dtype == F32


@pytest.mark.parametrize("kind", ["lora", "locon", "loha", "lokr low", "dora", "oft"])
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_memory_is_that_of_the_factors(base, kind, layer):
    lora = lora_of(kind, base, layer)
    numbers = sum(v.numel() for name, v in lora.tensors.items() if not name.endswith("alpha"))
    half = loaded_changes(base, layer, lora, dtype=torch.bfloat16)[0].bytes
    if kind == "lokr low":  # its first factor is kept multiplied
        assert half <= 2 * (4 * 2 + base.diffusion_model[layer].weight.numel() / 8)
    else:
        assert half == 2 * numbers


@pytest.mark.parametrize("kind, layer", [c for c in CASES if c[0] in ("lora", "locon", "lokr")])
def test_multiply_adds_are_those_that_are_computed(base, kind, layer):
    change, x = loaded_changes(base, layer, lora_of(kind, base, layer))[0], an_input(layer)
    plain = base.diffusion_model[layer](x)
    with FlopCounterMode(display=False) as counter:
        change.added(x, plain)
    positions = plain.numel() // plain.shape[-1 if layer == "linear" else 1]
    assert change.multiply_adds(positions) == counter.get_total_flops() // 2


def test_strength_zero_is_no_change(base):
    assert loaded_changes(base, "linear", lora_of("lora", base, "linear", strength=0.0)) == []


def glora(r):
    return {f"{name}.weight": r(32 if name == "b1" else 24, RANK) for name in ("a1", "b1")} | {
        f"{name}.weight": r(RANK, 24) for name in ("a2", "b2")
    }


REFUSED = {
    "GLoRA": ("linear", glora),
    "BOFT": ("linear", lambda r: {"oft_blocks": r(2, 8, 4, 4)}),
    "DoRA along the input": ("linear", lambda r: dora_of_columns(r)),
    "OFT with DoRA": ("linear", lambda r: {"oft_blocks": r(8, 4, 4), "dora_scale": r(32, 1)}),
    "takes the place of the layer's": ("linear", lambda r: {"set_weight": r(32, 24)}),
    "a difference of a LayerNorm": ("norm", lambda r: {"w_norm": r(24), "b_norm": r(24)}),
    "a new shape": (
        "linear",
        lambda r: {
            **low_rank(r, 40, 24, (40, 24)),
            "reshape_weight": torch.tensor([40, 24]),
        },
    ),
}


def dora_of_columns(r):
    return {**low_rank(r, 32, 24, (32, 24)), "dora_scale": r(1, 24)}


@pytest.mark.parametrize("words", REFUSED)
def test_kinds_that_are_not_sums_are_refused_by_name(base, words):
    layer, file = REFUSED[words]
    g = Generator().manual_seed(2)
    tensors = file(lambda *size: torch.randn(size, generator=g))
    named = {f"diffusion_model.{layer}.{name}": value for name, value in tensors.items()}
    with pytest.raises(ValueError, match=words) as refusal:
        loaded_changes(base, layer, PersonLora("odd.safetensors", named, 1.0, 1.0))
    assert "'odd.safetensors'" in str(refusal.value) and f"'{layer}'" in str(refusal.value)
    assert "Load LoRA" in str(refusal.value)
