"""Laws that every method except compose keeps: see lab/neighbors/strengths.py for the methods.

Time: the denoiser is a pure function of the noisy latents, the noise level and the conditioning
entry. So a sampling may be cut anywhere; only samplers that remember earlier steps lose them at the
cut, with the plain model as well.
"""

import copy

import comfy.sample
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_perpneg as perpneg
import comfy_extras.nodes_sag as sag
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import strengths as methods
from vitruvian.lab.neighbors.strengths import METHODS, Inputs, sample

register()
WINDOWED = ("human prior", "appearance", "refiner")
SAMPLERS = ["euler", "dpmpp_2m", "dpmpp_2m_sde", "heun"]
NEGATIVE, POSITIVE = "negative", "positive"


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(params=METHODS)
def name(request):
    return request.param


@pytest.fixture
def applied(loaded, name):
    """strength -> the method's inputs of a sampler."""
    model, conds = methods.base(name, loaded), methods.prompts(loaded[1])
    return lambda strength=1.0, **how: METHODS[name](model, *conds, strength, **how)


def alone(loaded, name, latent):
    """The inputs of a sampler without the method."""
    return Inputs(methods.base(name, loaded), *methods.prompts(loaded[1]), latent)


def distance(first, second):
    return float((first - second).norm() / second.norm())


def test_strength_0_is_not_there(loaded, name, applied):
    off, full = applied(0.0), applied()
    plain = sample(alone(loaded, name, off.latent))
    assert torch.equal(sample(off), plain)
    assert distance(sample(full), plain) > 0.01


def in_two_parts(inputs, steps, cut, **options):
    """As two KSampler (Advanced), the first of which returns its leftover noise."""
    first = sample(inputs, steps=steps, last_step=cut, force_full_denoise=False, **options)
    second = inputs._replace(latent={**inputs.latent, "samples": first})
    return sample(second, steps=steps, start_step=cut, disable_noise=True, **options)


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_two_parts_are_the_entire_sampling(name, applied, cut):
    if name == "mask expansion":
        pytest.skip("ComfyUI itself preserves the noise of the second part: it is refused")
    windows = [{}, {"window": (0.2, 0.6)}] if name in WINDOWED else [{}]
    for window in windows:
        inputs = applied(**window)
        assert distance(in_two_parts(inputs, 8, cut), sample(inputs, steps=8)) < 1e-5


class Evaluation:
    """One row that the network denoised: x and sigma, the list of its entry, and the result."""

    def __init__(self, x, sigma, kind, result):
        self.x, self.sigma, self.kind, self.result = x, sigma, kind, result


def recording(model, evaluations):
    """A clone of the model that records every row of positive and negative entries."""
    kinds = {}

    def read(executor, guider, *args, **kwargs):
        kinds.clear()
        for list_name in (NEGATIVE, "empty_negative_prompt", "middle", POSITIVE):
            for entry in guider.conds.get(list_name, [])[:1]:
                kinds[entry["uuid"]] = NEGATIVE if "neg" in list_name else POSITIVE
        return executor(guider, *args, **kwargs)

    def record(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        for k, uuid in enumerate(args[3]["uuids"]):
            evaluations.append(Evaluation(x[k], t[k], kinds.get(uuid), out[k]))
        return out

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "record", read)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "record", record)
    return model


def evaluate_again(inputs, evaluations):
    """Evaluate the same rows in another order, each in a batch with both prompts, in one sampling
    with another schedule.
    """
    again: list = []

    def visit(denoise, x, sigmas, extra_args, callback=None, disable=None):
        unmasked = {**extra_args, "denoise_mask": None}  # the rows are as the network saw them
        for evaluation in reversed(evaluations):
            denoise(evaluation.x[None], evaluation.sigma[None], **unmasked)
        return x

    model = recording(inputs.model, again)
    samples = inputs.latent["samples"]
    comfy.sample.sample_custom(
        model,
        torch.randn(samples.shape),
        5.0,
        comfy.samplers.KSAMPLER(visit),
        torch.tensor([5.0, 0.3]),
        inputs.positive,
        inputs.negative,
        samples,
        noise_mask=inputs.latent.get("noise_mask"),
        disable_pbar=True,
    )
    return again


def assert_pure(inputs, evaluations):
    assert len({float(e.sigma) for e in evaluations}) > 1
    known = [e for e in evaluations if e.kind in (POSITIVE, NEGATIVE)]
    again = evaluate_again(inputs, known)
    assert len(known) > 2 and len(again) == 2 * len(known)
    for evaluation in known:
        same = [
            other
            for other in again
            if other.kind == evaluation.kind
            and torch.equal(other.x, evaluation.x)
            and torch.equal(other.sigma, evaluation.sigma)
        ]
        assert same and all(distance(o.result, evaluation.result) < 1e-5 for o in same)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_denoiser_depends_on_latents_noise_level_and_prompt_alone(name, applied, sampler):
    """Recorded in one sampling, and in its second part; evaluated again in another order, at
    rising noise levels, in a schedule that knows nothing of these steps.
    """
    inputs = applied(**({"window": (0.2, 0.6)} if name in WINDOWED else {}))
    evaluations: list = []
    sample(inputs._replace(model=recording(inputs.model, evaluations)), steps=4, sampler=sampler)
    assert_pure(inputs, evaluations)
    evaluations.clear()
    second = inputs._replace(model=recording(inputs.model, evaluations))
    sample(second, steps=6, sampler=sampler, start_step=3)
    assert_pure(inputs, evaluations)


def node(function_or_class, *inputs):
    """Run a node of the host, of either of its two interfaces."""
    if hasattr(function_or_class, "execute"):
        return function_or_class.execute(*inputs).result
    return getattr(function_or_class(), function_or_class.FUNCTION)(*inputs)


def sample_guided(guider, latent, steps=3):
    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(7))
    sampling = guider.model_patcher.get_model_object("model_sampling")
    return guider.sample(
        noise,
        latent["samples"],
        comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(sampling, "normal", steps),
        latent.get("noise_mask"),
        disable_pbar=True,
    )


def ordinary_guider(model, positive, negative):
    return node(custom.CFGGuider, model, positive, negative, 4.0)[0]


GUIDERS = {
    "Dual CFG": lambda m, p, n: node(custom.DualCFGGuider, m, p, p, n, 2.0, 4.0, "regular")[0],
    "Dual CFG nested": lambda m, p, n: node(custom.DualCFGGuider, m, p, p, n, 2.0, 4.0, "nested")[
        0
    ],
    "PerpNeg": lambda m, p, n: node(perpneg.PerpNegGuider, m, p, n, n, 4.0, 0.0)[0],
    "PerpNeg on the model": lambda m, p, n: ordinary_guider(
        node(perpneg.PerpNeg, m, n, 0.5)[0], p, n
    ),
    "Self-Attention Guidance": lambda m, p, n: ordinary_guider(
        node(sag.SelfAttentionGuidance, m, 0.5, 2.0)[0], p, n
    ),
}
if hasattr(custom, "DualModelGuider"):
    GUIDERS["Dual Model"] = lambda m, p, n: node(custom.DualModelGuider, m, p, 4.0, m, n)[0]
AS_ORDINARY = {"Dual CFG", "Dual CFG nested", "PerpNeg", "Dual Model"}  # with equal prompts


@pytest.mark.parametrize("guidance", GUIDERS)
def test_positive_prompts_are_the_positive_ones_of_every_guider(name, applied, guidance):
    """Whatever number the guider gives to its lists, and whichever of them it asks for alone."""
    inputs, evaluations = applied(), []
    model, positive, negative, latent = inputs
    guider = GUIDERS[guidance](recording(model, evaluations), positive, negative)
    image = sample_guided(guider, latent)
    assert {e.kind for e in evaluations} >= {POSITIVE, NEGATIVE}
    assert_pure(inputs, evaluations)
    if guidance in AS_ORDINARY:
        expected = sample_guided(ordinary_guider(model, positive, negative), latent)
        assert distance(image, expected) < 1e-4  # batches of other sizes


def test_copies_of_everything_give_the_same_image(name, applied):
    """Other packs copy the options of a model and the conditionings, also while sampling."""
    inputs = applied()
    expected = sample(inputs)
    model = inputs.model.clone()
    model.model_options = copy.deepcopy(model.model_options)
    positive, negative = copy.deepcopy((inputs.positive, inputs.negative))
    assert torch.equal(sample(Inputs(model, positive, negative, inputs.latent)), expected)

    def copy_conds(executor, guider, sigmas, extra_args, *args, **kwargs):
        conds = guider.conds
        guider.conds = copy.deepcopy(conds)
        extra_args = copy.deepcopy(extra_args)
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    def copy_options(executor, x, t, c_concat, c_crossattn, control, options, **extra):
        options = copy.deepcopy(options)
        return executor(x, t, c_concat, c_crossattn, control, options, **extra)

    for order in ("outside", "inside"):
        model = methods_model(inputs.model, order, copy_conds, copy_options)
        assert torch.equal(sample(inputs._replace(model=model)), expected)


def methods_model(model, order, copy_conds, copy_options):
    """A clone with both wrappers, outside or inside those of the method."""
    model = model.clone()
    for kind, wrapper in (
        (WrappersMP.SAMPLER_SAMPLE, copy_conds),
        (WrappersMP.APPLY_MODEL, copy_options),
    ):
        others = dict(model.wrappers.get(kind, {}))
        model.wrappers[kind] = (
            {"copy": [wrapper], **others} if order == "outside" else {**others, "copy": [wrapper]}
        )
    return model


def test_patches_outlive_moves(applied):
    """The host moves what has a method `to`, and keeps what it returns."""
    inputs = applied()
    patches = inputs.model.model_options["transformer_options"].get("patches", {})
    assert all(not hasattr(p, "to") or p.to("cpu") is p for ps in patches.values() for p in ps)
    expected = sample(inputs)
    inputs.model.model_patches_to(torch.device("cpu"))
    inputs.model.model_patches_to(torch.float32)
    assert torch.equal(sample(inputs), expected)


@pytest.mark.parametrize("limits", [{}, {"strength": 0.3}, {"start_percent": 0.3}])
def test_a_combined_prompt_is_the_hosts_own_mean_or_sum(name, applied, limits):
    """Two entries of the positive: the mean of both rows, each with the method, where both act."""
    inputs = applied()
    two = [*inputs.positive, *([t, {**e, **limits}] for t, e in inputs.positive)]
    samples = sample(inputs._replace(positive=two))
    assert distance(samples, sample(inputs)) < 1e-4  # equal prompts: the mean is either


def crop_hint(control, rows, columns):
    """As packs for tiles do: a copy whose original hint is a crop."""
    control = control.copy()
    hint = control.cond_hint_original
    control.cond_hint_original = hint[:, :, rows, columns]
    return control


def test_a_cropped_hint_is_the_hint_of_the_crop(loaded):
    """The refiner's hint has 9 channels, and is cropped like any other."""
    inputs = METHODS["refiner"](loaded[0], *methods.prompts(loaded[1]))
    half = slice(0, methods.PIXELS // 2)
    cropped = [
        [[t, {**e, "control": crop_hint(e["control"], half, half)}] for t, e in conditioning]
        for conditioning in (inputs.positive, inputs.negative)
    ]
    latent = {"samples": torch.zeros(1, 4, methods.CELLS // 2, methods.CELLS // 2)}
    sampled = sample(Inputs(loaded[0], *cropped, latent))
    from vitruvian.models import refiner
    from vitruvian.nodes.refiner import VitruvianApplyStructureRefiner

    images = {
        f"{kind}_image": methods.random_image(k)[:, half, half]
        for k, kind in enumerate(refiner.CONDITIONS)
    }
    conds = VitruvianApplyStructureRefiner.execute(
        *methods.prompts(loaded[1]), 1.0, 0.0, 1.0, refiner=methods.random_refiner(), **images
    ).result
    assert distance(sampled, sample(Inputs(loaded[0], *conds, latent))) < 1e-5
