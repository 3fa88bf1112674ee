"""How the mini weights are made, one file per weight file: `dev.py train mini --work FOLDER`.

Each step goes on from its last checkpoint in the work folder, if that is of the same inputs. A
finished one is over at once, because its checkpoint stands at the last step. On a GPU
`dev.py train everything` makes what follows autoencoder and evaluators.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..evaluators.posenet import EVALUATOR_WEIGHTS
from ..training.loop import native_precision
from ..training.options import (
    PRECISIONS,
    Parser,
    check_folder_to_write,
    check_precision,
    plain_errors,
    positive_steps,
    share,
    whole_number,
)
from . import (
    anatomynet,
    appearance,
    base,
    clothnet,
    controlnet,
    hand_generator,
    handnet,
    human_prior,
    lora,
    memory,
    part_encoder,
    person_loras,
    posenet,
    refiner,
    structure,
    surfacenet,
    transformer,
    true_bodies,
    vae,
)
from .recipe import BASELINES, VITRUVIAN_WEIGHTS, Recipe, Run, shortened
from .worlds import MIXED, claim_share

RECIPES: tuple[Recipe, ...] = (  # in this order: later ones read what earlier ones wrote
    vae.RECIPE,
    base.RECIPE,
    base.FURTHER_RECIPE,
    transformer.RECIPE,
    controlnet.RECIPE,
    vae.MAPS_RECIPE,
    posenet.RECIPE,
    handnet.RECIPE,
    surfacenet.RECIPE,
    clothnet.RECIPE,
    anatomynet.RECIPE,
    true_bodies.RECIPE,
    hand_generator.RECIPE,
    human_prior.RECIPE,
    human_prior.ABLATIONS_RECIPE,
    lora.RECIPE,
    *person_loras.RECIPES,
    structure.RECIPE,
    *structure.ABLATION_RECIPES,
    refiner.RECIPE,
    refiner.ABLATIONS_RECIPE,
    part_encoder.RECIPE,
    memory.RECIPE,
    appearance.RECIPE,
    appearance.ABLATIONS_RECIPE,
)
LARGEST_WORLD = 10_000_000  # scenes
NAMES = tuple(recipe.name for recipe in RECIPES)
DEFAULTS = tuple(recipe.name for recipe in RECIPES if recipe.default)


def main(arguments: Sequence[str]) -> None:
    """Run the named steps, by default all that make the committed weights from nothing."""
    parser = _parser()
    options = _read_options(parser, arguments)
    with plain_errors(parser):
        _check_files(options)
        for recipe in RECIPES:
            if recipe.name in options.step:
                schedule = shortened(recipe.schedule, options.share)
                schedule = replace(schedule, precision=options.precision)
                if options.steps is not None:
                    schedule = replace(schedule, steps=options.steps)
                recipe.train(Run(options.work, schedule, options.scenes, options.start))


def _check_files(options: argparse.Namespace) -> None:
    """Raise ValueError, naming the option, for what can not be read or written."""
    check_precision(options.precision)
    check_folder_to_write(options.work, "--work")
    claim_share(options.work, options.share)
    for folder in (VITRUVIAN_WEIGHTS, EVALUATOR_WEIGHTS, BASELINES):
        check_folder_to_write(folder, "the folder of the weights")
    if options.start and not options.start.is_file():
        raise ValueError(f"--start {options.start}: expected a file of weights, found none.")


def _parser() -> Parser:
    parser = Parser(prog="dev.py train mini", description=__doc__)
    parser.add_argument(
        "step",
        nargs="*",
        help=f"some of {', '.join(NAMES)}; without any, those that make the committed weights: "
        f"{', '.join(DEFAULTS)}",
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for world and checkpoints")
    parser.add_argument(
        "--scenes",
        type=whole_number(1, LARGEST_WORLD),
        default=MIXED.scenes,
        help="scenes of the base's training world",
    )
    parser.add_argument("--steps", type=positive_steps, help="length of the one named step")
    parser.add_argument(
        "--share", type=share, default=1.0, help="of the length of every step, and of every world"
    )
    parser.add_argument("--start", type=Path, help="weights that the one named step goes on from")
    parser.add_argument("--precision", default=native_precision(), choices=PRECISIONS)
    return parser


def _read_options(parser: Parser, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; `step` holds the names of the steps to run."""
    options = parser.parse_args(arguments)
    options.step = options.step or DEFAULTS
    if unknown := set(options.step) - set(NAMES):
        parser.error(f"there is no step {', '.join(unknown)}; the steps are {', '.join(NAMES)}")
    if len(options.step) > 1 and (options.steps or options.start):
        parser.error("--steps and --start go with one named step")
    continuing = [recipe.name for recipe in RECIPES if recipe.continues]
    if options.start and options.step[0] not in continuing:
        parser.error(f"--start goes with {' and '.join(continuing)}")
    return options
