"""All trainings that follow the autoencoder and the evaluators, on one GPU in less than 25 minutes:
`dev.py train everything --gpu --work FOLDER`.

First the base goes on, then the pose ControlNet has the card to itself, then all others share it.
Weights take their committed places. Start it again with the same folder to go on: a finished
stage is left out, and a training that was stopped goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...training.loop import native_precision
from ...training.options import Parser, check_folder_to_write, plain_errors, share
from .. import RECIPES, worlds
from ..recipe import NO_TRAINING, Run
from . import lanes, plan, rendering, report

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Run everything, or one process of it with --lane."""
    parser = _parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    with plain_errors(parser):
        _check(options)
        if options.lane:
            _run_process(options)
            return
        failed = lanes.run_all(options.work, arguments)
    log.info("What is finished:\n%s", report.table(options.work))
    if failed:
        parser.exit(1, f"{parser.prog}: {', '.join(failed)} failed, see {options.work}/logs\n")


def _parser() -> Parser:
    parser = Parser(prog="dev.py train everything", description=__doc__)
    parser.add_argument(
        "--gpu", action="store_true", help="in the batches of a GPU; without it on the CPU, in days"
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for worlds and checkpoints"
    )
    parser.add_argument("--share", type=share, default=1.0, help="of all steps and worlds")
    parser.add_argument(
        "--lane", choices=(lanes.WORLDS, *plan.LANES), help="only this process of a run"
    )
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.gpu and not torch.cuda.is_available():
        raise ValueError("--gpu: torch finds no CUDA device.")
    check_folder_to_write(options.work, "--work")
    worlds.claim_share(options.work, options.share)


def _run_process(options: argparse.Namespace) -> None:
    device = "cuda" if options.gpu else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    if options.lane == lanes.WORLDS:
        rendering.render_all(options.work, device)
        return
    recipes = {recipe.name: recipe for recipe in RECIPES}
    schedule = replace(NO_TRAINING, precision=native_precision())
    run = Run(options.work, schedule, worlds.MIXED.scenes, device=device)
    lanes.run_lane(options.lane, recipes, run, options.share)
