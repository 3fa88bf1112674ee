"""Compose people on the host's networks: each has a stream with their own prompt and skeleton.

streams.py  which streams one call of the network has, with whose text and skeleton
control.py  the control that travels on the conditioning: residuals and patches for the streams
control_kinds.py  which controls fit which networks; model_patches.py: those that are no ControlNets
plan.py     what stays the same over one sampling
calls.py    one call of the network by the host
families.py the network families that can compose, a row each
unets.py, transformers.py  how they do it; text_masks.py, next_dit.py: what transformers need for it
patches.py  the wrappers that travel on the MODEL
"""

from .control import ComposedControl, attach, check_controls
from .patches import compose_model
from .plan import Plan
from .streams import (
    COUPLE,
    EXACT,
    KEY,
    LAYERS,
    NEGATIVE,
    NODE,
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
    "NODE",
    "PEOPLE",
    "ComposedControl",
    "Composition",
    "PeopleTexts",
    "Plan",
    "Shares",
    "attach",
    "check_controls",
    "compose_model",
]
