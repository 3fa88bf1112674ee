"""Compose people on the host's networks: each has a stream with their own prompt and skeleton.

streams.py  which streams one call of the network has, with whose text and skeleton
control.py  the ControlNet that travels on the conditioning, and its residuals for the streams
families.py what differs between network families: where features are mixed
patches.py  the wrappers that travel on the MODEL and turn a batch into streams and back
"""

from .control import ComposedControl, attach
from .patches import Plan, compose_model
from .streams import (
    COUPLE,
    EXACT,
    KEY,
    LAYERS,
    NEGATIVE,
    PEOPLE,
    Composition,
    PeopleTexts,
    Shares,
)

__all__ = [
    "COUPLE",
    "EXACT",
    "KEY",
    "LAYERS",
    "NEGATIVE",
    "PEOPLE",
    "ComposedControl",
    "Composition",
    "PeopleTexts",
    "Plan",
    "Shares",
    "attach",
    "compose_model",
]
