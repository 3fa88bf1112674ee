"""The benchmark of the human prior: what it generates, reads, compares and decides."""

import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from vitruvian.lab.benchmarks import human_prior as bench
from vitruvian.lab.benchmarks import human_prior_denoising as denoising
from vitruvian.lab.benchmarks import human_prior_judge as judging
from vitruvian.lab.benchmarks import human_prior_ways as ways
from vitruvian.lab.benchmarks.human_prior_judge import Judged
from vitruvian.lab.evaluators import bodies
from vitruvian.lab.evaluators.frechet import frechet_unbiased
from vitruvian.lab.recipes.human_prior import ABLATIONS, HUMAN_PRIOR
from vitruvian.lab.recipes.lora import LORA
from vitruvian.lab.training import convert, preview
from vitruvian.lab.training.denoise import Denoiser
from vitruvian.lab.training.human_prior_unet import prior_layers
from vitruvian.lab.training.networks import build_scheduler
from vitruvian.lab.world.renderer import render
from vitruvian.lab.world.scenes import ACTIONS

PROMPTS, SEEDS, FEATURES = 30, 2, 4


def judged(anatomy, action, drift=0.0, seeds=SEEDS, shift=0.0):
    """Judgements of PROMPTS prompts whose first images, so many, are right."""
    g = torch.Generator().manual_seed(1)

    def first(count):
        hits = torch.arange(PROMPTS * seeds).view(seeds, PROMPTS).mT < count
        return hits.float()

    features = torch.randn(PROMPTS, SEEDS, FEATURES, generator=g)[:, :seeds] + shift
    values = torch.full((PROMPTS, seeds), drift)
    return Judged(first(anatomy), first(action), values, features)


FIDELITY = torch.randn(200, FEATURES, generator=torch.Generator().manual_seed(2))


def test_every_action_comes_equally_often():
    scenes = judging.balanced_people(32, 5)
    counts = torch.bincount(scenes.people.action, minlength=len(ACTIONS))
    assert len(scenes) == len(scenes.people) == 32
    assert counts.min() == 2 and counts.max() == 3
    assert torch.equal(scenes.people.scene, torch.arange(32))
    again = judging.balanced_people(32, 5)
    assert torch.equal(again.people.action, scenes.people.action)


def test_figures_are_shares_with_intervals_over_prompts():
    ours = judged(anatomy=45, action=15, drift=0.25)
    numbers = judging.figures("x", ours, FIDELITY)
    assert numbers["x_anatomy"] == 0.75 and numbers["x_action"] == 0.25
    assert numbers["x_drift"] == numbers["x_drift_low"] == numbers["x_drift_high"] == 0.25
    images = ours.features.flatten(0, 1)
    assert numbers["x_fd"] == pytest.approx(frechet_unbiased(images, FIDELITY))
    assert numbers["x_fd"] < bodies.frechet(images, FIDELITY)  # which is too large of so few
    assert numbers["x_fd_low"] < numbers["x_fd"] < numbers["x_fd_high"]
    assert {key for key in numbers if key.endswith("_count")} == {
        f"x_{figure}_count" for figure in ("anatomy", "action", "drift", "fd")
    }
    assert all(value == PROMPTS for key, value in numbers.items() if key.endswith("_count"))
    assert numbers["x_anatomy_low"] < 0.75 < numbers["x_anatomy_high"]


def test_a_few_images_have_no_distance():
    """Halves of one image have no covariance, with which LAPACK ends the process."""
    numbers = judging.figures("x", judged(45, 15).at([0, 1]), FIDELITY)
    assert "x_anatomy" in numbers and not any(key.startswith("x_fd") for key in numbers)


def test_a_comparison_pairs_image_with_image():
    """Both seeds of the first prompt differ for us, the second seed of the second for the other."""
    ours, theirs = judged(45, 15), judged(45, 15)
    ours.anatomy[:] = theirs.anatomy[:] = 1
    theirs.anatomy[0] = 0
    ours.anatomy[1, 1] = 0
    numbers = judging.compare("x", ours, theirs, FIDELITY)
    assert numbers["x_anatomy"] == pytest.approx((2 - 1) / (PROMPTS * SEEDS))
    two_of_three = sum(math.comb(3, k) for k in (0, 1)) / 2**3  # a coin that falls so, or less even
    assert numbers["x_anatomy_p"] == min(1.0, 2 * two_of_three)
    assert numbers["x_action"] == 0 and numbers["x_action_p"] == 1
    assert numbers["x_fd"] == 0 and "x_fd_p" not in numbers and "x_drift_p" not in numbers


def test_shares_of_each_action():
    actions = torch.arange(PROMPTS) % len(ACTIONS)
    ours = judged(anatomy=0, action=0)
    ours.action[actions == 2] = torch.tensor([1.0, 0.0])
    ours.anatomy[2] = 1.0  # one of the two prompts of this action
    numbers = judging.figures_by_action("x", ours, actions)
    assert numbers["x_action_running"] == 0.5 == numbers["x_anatomy_running"]
    assert numbers["x_anatomy_running_count"] == 2
    assert numbers["x_action_arms_raised"] == 0 and "x_action_arms raised" not in numbers
    assert sum(key.startswith("x_action") for key in numbers) == 4 * len(ACTIONS)


def test_judgements_are_joined_by_prompt_and_seed():
    def single(value):
        return Judged(*(torch.full((1, 1), float(value)),) * 3, torch.full((1, 1, 2), value))

    joined = bench._collect({4: [single(40.0), single(41.0)], 1: [single(10.0), single(11.0)]})
    assert joined.anatomy.tolist() == [[10, 11], [40, 41]]
    assert joined.features.shape == (2, 2, 2) and joined.features[1, 1].tolist() == [41, 41]
    assert joined.first_seed().drift.tolist() == [[10], [40]]
    assert joined.at([1]).action.tolist() == [[40, 41]]


@pytest.mark.parametrize(
    ("anatomy", "action", "words"),
    [
        (1.0, 1.0, "right"),
        (0.0, 1.0, "body wrong"),
        (1.0, 0.0, "action wrong"),
        (0.0, 0.0, "body and action wrong"),
    ],
)
def test_the_sheet_says_what_is_wrong(anatomy, action, words):
    values = torch.tensor([[anatomy]]), torch.tensor([[action]]), torch.zeros(1, 1)
    assert bench._value(Judged(*values, torch.zeros(1, 1, 2))) == words


def all_judged(prior, low_rank):
    """Judgements of every way; the base has half of the bodies and of the actions right."""
    base = judged(30, 30)
    arms = {name: judged(15, 15, seeds=1) for name in ABLATIONS}
    results = {"base": base, "human_prior": prior, "lora": low_rank, **arms}
    first = {f"{name}_first": results[name].first_seed() for name in ("base", "human_prior")}
    return results | first | {"ceiling": judged(60, 60)}


def all_denoised(gain):
    g = torch.Generator().manual_seed(3)
    errors = 0.1 + 0.01 * torch.rand(20, len(denoising.STEPS), generator=g)
    cosines = 0.3 + 0.01 * torch.rand(20, len(denoising.STEPS), generator=g)
    results = {
        name: denoising.Denoised(errors, cosines) for name in ("base", "lora", *sorted(ABLATIONS))
    }
    results["human_prior"] = denoising.Denoised(errors * gain, cosines + (1 - gain))
    return results | {"flat": denoising.Denoised(torch.empty(0), cosines[:, :1])}


def decide(prior, low_rank, gain):
    numbers = {"prompts": PROMPTS, "seeds": SEEDS}
    numbers |= bench.image_figures(all_judged(prior, low_rank), FIDELITY)
    numbers |= bench.denoising_figures(all_denoised(gain))
    return numbers, {each["claim"]: each for each in bench.decided(numbers)}


def test_claims_are_decided_by_what_was_measured():
    """The prior beats the base in bodies and actions, the LoRA beats it in actions and drifts."""
    prior, low_rank = judged(55, 45, drift=0.1, shift=0.3), judged(55, 60, drift=0.2)
    numbers, claims = decide(prior, low_rank, gain=0.9)
    shown_claims = {claim.words for claim in (bench.BODIES, bench.ACTS, bench.BACKGROUND)}
    shown_claims |= {claim.words for claim in (bench.EARLY, bench.LOOKS, bench.ALIGNED_BODIES)}
    assert {words for words, each in claims.items() if each["verdict"] == "shown"} == shown_claims
    assert len(claims) == 9
    of_bodies = claims[bench.BODIES.words]
    assert of_bodies["figure"] == pytest.approx(55 / 60) and of_bodies["baseline"] == 0.5
    assert of_bodies["p"] == numbers["human_prior_over_base_anatomy_p"] < 0.01
    assert "60 images" in of_bodies["test"] and of_bodies["ceiling"] == 1
    assert claims[bench.LORA_ACTS.words]["difference"] == pytest.approx(-15 / 60)
    assert claims[bench.BACKGROUND.words]["difference"] == pytest.approx(-0.1)
    aligned = claims[bench.ALIGNED_BODIES.words]  # of the first seed alone
    assert aligned["figure"] == 1 and "30 images" in aligned["test"]


def test_nothing_is_shown_where_nothing_differs():
    _, claims = decide(judged(30, 30), judged(30, 30), gain=1.0)
    claims.pop(bench.ALIGNED_BODIES.words)  # of 1 against .5
    assert {each["verdict"] for each in claims.values()} == {"denied"}


def test_errors_by_step_are_shares_of_the_bases():
    numbers = bench.denoising_figures(all_denoised(0.9))
    assert "base_error_700_share" not in numbers
    for step in denoising.STEPS:
        assert numbers[f"human_prior_error_{step}_share"] == pytest.approx(0.9)
        assert numbers[f"lora_error_{step}_share"] == 1
    assert numbers["base_early_error"] == pytest.approx(1)
    assert numbers["human_prior_over_base_early_error"] == pytest.approx(-0.1)
    assert numbers["human_prior_over_no_alignment_cosine"] == pytest.approx(0.1)


def test_drift_of_each_image_is_that_of_the_evaluator():
    g = torch.Generator().manual_seed(4)
    images, base = torch.rand(2, 3, 192, 192, generator=g), torch.rand(2, 3, 192, 192, generator=g)
    joints = 60 + 60 * torch.rand(2, 18, 2, generator=g)
    drifts = judging._drifts(images, base, joints, joints + 3)
    for i in range(2):
        at = slice(i, i + 1)
        alone = bodies.drift(images[at], base[at], joints[at], joints[at] + 3)
        assert float(drifts[i]) == pytest.approx(alone, rel=1e-5)


@pytest.fixture(scope="module")
def people(mini_weights):
    return denoising.noisy_people(judging.true_people(3, 6))


def errors_of(unet, text_encoder, people):
    """The errors by a plain network, one scene and step at a time."""
    model = Denoiser(unet, text_encoder)
    with torch.no_grad():
        return torch.tensor(
            [
                [
                    float((noise_of(model, people, i, k) - people.noise[k, i]).square().mean())
                    for k in range(len(denoising.STEPS))
                ]
                for i in range(len(people.latents))
            ]
        )


def noise_of(model, people, i, k):
    step = torch.tensor([denoising.STEPS[k]])
    alpha = build_scheduler().alphas_cumprod[step]
    noisy = alpha.sqrt() * people.latents[i] + (1 - alpha).sqrt() * people.noise[k, i]
    return model(noisy[None], step, people.ids[i : i + 1])[0]


def test_the_bases_errors_are_a_plain_networks(people):
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    expected = errors_of(checkpoint.unet, checkpoint.text_encoder, people)
    got = denoising.denoise(denoising._open_base(), people).errors
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_the_loras_errors_are_those_of_changed_weights(people):
    checkpoint = convert.load_checkpoint(preview.CHECKPOINT)
    changes, weights = load_file(LORA), checkpoint.unet.state_dict()
    for name, key in convert.unet_names(weights).items():
        place = f"diffusion_model.{key.removesuffix('.weight')}"
        if (up := changes.get(f"{place}.lora_up.weight")) is not None:
            down = changes[f"{place}.lora_down.weight"].float().flatten(1)
            weights[name] += (up.float().flatten(1) @ down).view_as(weights[name])
    checkpoint.unet.load_state_dict(weights)
    expected = errors_of(checkpoint.unet, checkpoint.text_encoder, people)
    got = denoising.denoise(denoising._open_low_rank(), people).errors
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-6)
    base = denoising.denoise(denoising._open_base(), people).errors
    assert (got - base).abs().max() > 1e-4


def test_a_priors_file_says_how_it_acts(people):
    """With its layers emptied the prior is the base; as it is, it is not."""
    model = denoising.open_prior(HUMAN_PRIOR)
    base = denoising.denoise(denoising._open_base(), people)
    assert (denoising.denoise(model, people).errors - base.errors).abs().max() > 1e-5
    for layer in prior_layers(model).values():
        layer.net[2].weight.data.zero_()
        layer.net[2].bias.data.zero_()
    torch.testing.assert_close(denoising.denoise(model, people).errors, base.errors)


def test_maps_are_compared_with_the_true_silhouette(people):
    """A map that is the silhouette has cosine 1, a flat one the root of the area's share."""
    truth = render(judging.true_people(3, 6))
    assert torch.equal(people.silhouettes[:, 0] > 0, truth.instance >= 0)
    side, rows = people.latents.shape[-1], torch.arange(3)
    grids = (side, side // 2)

    def maps(of):
        return {
            f"input_{n}_0": of(n).flatten(1)[:, None, :, None].expand(-1, 2, -1, 77) for n in grids
        }

    exact = maps(lambda n: interpolate(people.silhouettes, (n, n), mode="area"))
    assert denoising._on_bodies(exact, people, rows) == pytest.approx([1.0] * 3, abs=1e-5)
    flat = denoising._on_bodies(maps(lambda n: torch.ones(3, n, n)), people, rows)
    for i in range(3):
        areas = [
            interpolate(people.silhouettes[i : i + 1], (n, n), mode="area").double() for n in grids
        ]
        shares = [float(a.sum() / (a.numel() * a.square().sum()).sqrt()) for a in areas]
        assert float(flat[i]) == pytest.approx(sum(shares) / len(shares), rel=1e-4)
    assert denoising.flat_cosines(denoising._open_base(), people).shape == (3,)


def test_missing_baselines_are_said_with_their_command(tmp_path, monkeypatch):
    monkeypatch.setattr(ways, "ablation_file", lambda name: tmp_path / f"{name}.safetensors")
    (tmp_path / "gamma_07.safetensors").touch()
    with pytest.raises(ValueError, match=r"lacks no_alignment.*alignment_0015.*train mini human-"):
        ways.arm_files()


def test_groups_hold_enough_prompts():
    groups = [[0, 4], [1], [2, 3, 5]]
    assert ways.first_groups(groups, 3) == [[0, 4], [1]]
    assert ways.first_groups(groups, 99) == groups


class Generators:
    """Ways that give images of their seed, and count what is asked of them."""

    def __init__(self):
        self.calls = []

    def of(self, *names):
        return {name: self.way(name) for name in names}

    def way(self, name):
        def generate(prompts, seed):
            self.calls.append((name, len(prompts), seed))
            g = torch.Generator().manual_seed(seed)
            return torch.rand(len(prompts), 3, 192, 192, generator=g)

        return generate


def test_every_image_is_generated_once_and_judged_beside_the_bases(mini_weights, monkeypatch):
    """Base, prior and LoRA with both seeds, arms with one, strengths on the first group only."""
    generators = Generators()
    groups = [[0, 2], [1]]
    monkeypatch.setattr(ways, "main_ways", lambda _: generators.of("base", "human_prior", "lora"))
    monkeypatch.setattr(ways, "arms", lambda _: generators.of(*ABLATIONS))
    monkeypatch.setattr(ways, "other_strengths", lambda _: generators.of("strength_2"))
    monkeypatch.setattr(ways, "group_alike", lambda *_: groups)
    monkeypatch.setattr(bench, "SHOWN", 1)
    scenes = judging.balanced_people(3, 7)
    judge = judging.Judge(scenes.people.action)
    counts = bench.QUICK._replace(prompts=3, seeds=2, strength_prompts=2)
    measured = bench.Bench(None, ["a", "b", "c"], judge, counts)
    results = measured.judge_all()
    assert len(generators.calls) == len(set(generators.calls))
    expected = {
        (name, len(rows), ways.seed_of(rows, take))
        for name in ("base", "human_prior", "lora")
        for rows in groups
        for take in (0, 1)
    }
    expected |= {(name, len(rows), rows[0]) for rows in groups for name in ABLATIONS}
    assert set(generators.calls) == expected | {("strength_2", 2, 0)}
    assert results["human_prior"].anatomy.shape == (3, 2)
    assert results["gamma_07"].anatomy.shape == results["base_first"].anatomy.shape == (3, 1)
    assert not any(each.drift.any() for each in results.values())  # all images are the base's
    assert measured.strength_figures()["strength_2_anatomy_count"] == 2


def test_the_judge_sees_a_change_of_action(mini_weights, monkeypatch):
    """Of true images most actions are named right; with other prompts few are."""
    scenes = judging.balanced_people(15, 9)
    truth = render(scenes).rgb
    judge = judging.Judge(scenes.people.action)
    right = judge.judge(truth, range(15), truth, judge.read(truth))
    wrong = judge.judge(truth, [*range(1, 15), 0], truth, judge.read(truth))
    assert right.action.mean() > 0.6 and wrong.action.mean() < 0.4
    assert right.anatomy.mean() > 0.5 and not right.drift.any()
