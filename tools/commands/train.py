"""`dev.py train`: run a trainer, or the recipes of the mini weights.

Also under `accelerate launch dev.py train NAME`.
"""

import argparse
import importlib

from ..environments import again_inside, has_packages, pins_environment
from ..modules import modules_with, pick


def run(options: argparse.Namespace) -> int:
    """Run the trainer of the command line with its further arguments."""
    recipes = {
        "mini": "vitruvian.lab.recipes",
        "everything": "vitruvian.lab.recipes.everything",
    }
    trainers = {**modules_with("lab/training", "main"), **recipes}
    name = pick("trainer", options.name, trainers)
    if not has_packages():
        again_inside(pins_environment())
    importlib.import_module(name).main(options.arguments)
    return 0
