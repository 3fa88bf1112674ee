"""The shared loop: what a kill, a resume, a second process and an average must not change."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from vitruvian.lab.training import denoise, loop, networks, vae
from vitruvian.lab.training.batches import nearness
from vitruvian.lab.training.tokens import WordTokenizer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, time, torch
from pathlib import Path
sys.path.insert(0, {root!r})
import dev
dev.load_pack()
from vitruvian.lab.training import loop
data = [torch.full((4,), float(i)) for i in range(50)]
model = torch.nn.Linear(4, 1)
torch.nn.init.constant_(model.weight, 0.5); torch.nn.init.zeros_(model.bias)
def loss(m, batch, g):
    x = torch.stack(batch) / 50
    time.sleep({nap})
    return (m(x + 0.1 * torch.randn(x.shape, generator=g)) - x.sum(-1,
    keepdim=True)).square().mean()
schedule = loop.Schedule(steps=60, batch=8, lr=1e-2, warmup=5, save_every=10, precision="no")
loop.fit(model, loss, data, schedule, Path({out!r}), collate=list)
torch.save(model.state_dict(), {out!r} + "/weights.pt")
"""


def _run(out: Path, *launcher: str, nap: float = 0.0) -> subprocess.Popen:
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(root=str(ROOT), out=str(out), nap=nap))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen([sys.executable, *launcher, str(script)], env=environment)


def _weights(out: Path) -> torch.Tensor:
    return torch.load(out / "weights.pt", weights_only=True)["weight"]


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    undisturbed, killed = tmp_path / "whole", tmp_path / "killed"
    assert _run(undisturbed).wait() == 0
    running = _run(killed, nap=0.15)
    while running.poll() is None and not list(killed.glob("checkpoint-0000[23]0")):
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL, "it ended by itself"
    assert not (killed / "weights.pt").exists() and list(killed.glob("checkpoint-*"))
    assert _run(killed).wait() == 0
    assert torch.equal(_weights(undisturbed), _weights(killed))
    losses = [json.loads((out / "loss.json").read_text()) for out in (undisturbed, killed)]
    assert losses[0] == losses[1] and len(losses[0]) == 60
    assert losses[0][-1] < losses[0][0] / 5
    assert (killed / "loss.png").stat().st_size > 5000


def test_two_processes_train_together(tmp_path):
    pair = tmp_path / "pair"
    options = "--cpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    launcher = ["-m", "accelerate.commands.launch", *options.split(), "--main_process_port", "0"]
    assert _run(pair, *launcher).wait() == 0
    losses = json.loads((pair / "loss.json").read_text())
    assert len(losses) == 60 and losses[-1] < losses[0] / 5


def test_every_epoch_is_a_permutation_shared_out_between_processes():
    schedule = loop.Schedule(steps=10, batch=6, lr=1.0, seed=3)
    parts = [list(loop._Batches(20, schedule, 0, rank, 2)) for rank in (0, 1)]
    order = [
        k for a, b in zip(*parts, strict=True) for pair in zip(a, b, strict=True) for k in pair
    ]
    assert (
        sorted(order[:20]) == sorted(order[20:40]) == list(range(20)) and order[:20] != order[20:40]
    )
    late = list(loop._Batches(20, schedule, 7, 0, 2))
    assert late == parts[0][7:]


def test_the_rate_warms_up_and_falls_to_its_end():
    schedule = loop.Schedule(steps=100, batch=1, lr=1.0, warmup=10, final_lr=0.1)
    rates = [schedule.rate(k) for k in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == 1.0 == rates[10]
    assert rates[99] == pytest.approx(0.1, abs=0.01)


def test_a_constant_loss_and_one_step_can_be_plotted(tmp_path):
    for losses in ([], [0.5], [0.5] * 200, [0.0, 1.0]):
        loop.plot_loss(losses, tmp_path / "loss.png")
        assert (tmp_path / "loss.png").stat().st_size > 3000


def _batch(n: int) -> list[dict]:
    g = torch.Generator().manual_seed(0)
    body = [[8.0 + i, 60.0, 1.0] for i in range(18)]
    words = {"full": "a woman with red shoes, in a park", "brief": "a man", "bodies": [body]}
    return [
        {
            "latent": torch.randn(4, 8, 8, generator=g),
            "hint": torch.randint(256, (3, 64, 64), generator=g, dtype=torch.uint8),
            "rgb": torch.randint(256, (3, 64, 64), generator=g, dtype=torch.uint8),
            "captions": words,
        }
        for _ in range(n)
    ]


def _denoiser() -> denoise.Denoiser:
    torch.manual_seed(0)
    unet = networks.build_unet()
    return denoise.Denoiser(
        unet,
        networks.build_text_encoder(len(WordTokenizer.from_file())),
        networks.build_controlnet(unet),
    )


def test_the_control_reaches_only_its_share_of_the_batch():
    model = _denoiser().eval()
    for block in model.controlnet.controlnet_down_blocks:
        nn.init.normal_(block.weight, std=0.5)
    x, t, ids = torch.randn(4, 4, 8, 8), torch.full((4,), 500), torch.ones(4, 77, dtype=torch.long)
    with torch.no_grad():
        free, half = model(x, t, ids), model(x, t, ids, torch.rand(2, 3, 64, 64))
    assert (
        torch.allclose(free[2:], half[2:], atol=1e-5) and (free[:2] - half[:2]).abs().max() > 1e-2
    )


def test_an_exact_prediction_has_no_loss_and_zero_has_the_snr_weight():
    class Exact(nn.Module):
        def __init__(self, share):
            super().__init__()
            self.p, self.share = nn.Parameter(torch.zeros(())), share

        def forward(self, x, t, ids, hint):
            a = networks.build_scheduler().alphas_cumprod[t].view(-1, 1, 1, 1)
            return self.share * (x - a.sqrt() * latents) / (1 - a).sqrt()

    batch = _batch(64)
    latents = torch.stack([b["latent"] for b in batch])
    measure = denoise.DenoisingLoss(WordTokenizer.from_file(), gamma=1e9, stress=0.0)
    assert float(measure(Exact(1.0), batch, torch.Generator().manual_seed(1))) < 1e-8
    assert float(measure(Exact(0.0), batch, torch.Generator().manual_seed(1))) == pytest.approx(
        1.0, abs=0.05
    )


def test_the_loss_looks_at_joints_first():
    body = [[0.0, 0.0, 0.0]] * 17 + [[100.0, 60.0, 1.0]]
    near = nearness([body], 24, 16)
    y, x = divmod(int(near.argmax()), 16)
    assert (x, y) == (12, 7) and near[7, 12] > 0.9 > 0.1 > near[:, :4].max()
    assert not nearness([[[0.0, 0.0, 0.0]] * 18], 24, 16).any()
    assert not nearness([], 24, 16).any()


def test_captions_are_dropped_and_shortened_as_asked():
    tokenizer = WordTokenizer.from_file()
    words = [{"captions": {"full": "a woman in a park", "brief": "a man"}}] * 400
    pick = denoise.DenoisingLoss(tokenizer, drop=0.3, brief=0.5, forget=0.0)._ids
    ids = pick(words, torch.Generator().manual_seed(0))
    empty = (ids == tokenizer([""])).all(-1).float().mean()
    short = (ids == tokenizer(["a man"])).all(-1).float().mean()
    assert float(empty) == pytest.approx(0.3, abs=0.07) and float(short) == pytest.approx(
        0.35, abs=0.07
    )


def test_the_autoencoders_loss_counts_the_round_trip():
    torch.manual_seed(0)
    net = vae.Autoencoder(networks.build_vae())
    measure = vae.VAELoss(crop=32)
    value = measure(net, _batch(2), torch.Generator().manual_seed(0))
    value.backward()
    assert value.isfinite() and all(p.grad is not None for p in net.parameters())


def test_the_mini_recipe_runs_from_the_command_line(tmp_path):
    short = ["--work", str(tmp_path), "--scenes", "1", "--steps", "1"]
    command = [sys.executable, str(ROOT / "dev.py"), "train", "mini", "vae", *short]
    assert subprocess.call(command) == 0
    assert (tmp_path / "vae" / "checkpoint-000001").is_dir()
    assert (tmp_path / "vae" / "loss.png").is_file()
