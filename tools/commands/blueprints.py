"""`dev.py blueprints`: make subgraphs/ anew from the example workflows."""

import argparse

from .. import blueprints


def run(_: argparse.Namespace) -> int:
    """Write every blueprint and print the names of the files."""
    print("\n".join(blueprints.write()))
    return 0
