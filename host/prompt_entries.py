"""Choose the entry of a CONDITIONING that a node looks at, for nodes that look at one prompt."""

from collections.abc import Mapping
from typing import Any

# keys of an entry that say when and how much it counts beside others
LIMITS = (
    "start_percent",
    "end_percent",
    "clip_start_percent",
    "clip_end_percent",
    "mask",
    "mask_strength",
    "set_area_to_bounds",
    "strength",
    "default",
)


def acting_entry(conditioning: Any, percent: float, name: str = "positive") -> list[Any]:
    """Return the entry [text, dict] that acts at a moment of the sampling, without its limits.

    percent: share of the sampling that is over, 0 to 1; name: of the node's input. What a mask
    limits is the prediction, not what the network sees: it is left out. ValueError if several
    entries act at once, none does, or it sees a part of the image only.
    """
    acting = [entry for entry in conditioning if _acts(entry[1], percent)]
    if len(acting) > 1:  # where one range ends and the next begins, the next counts
        acting = [entry for entry in acting if percent >= 1 or _range(entry[1])[1] > percent]
    if not acting:
        raise ValueError(
            f"no prompt of '{name}' acts when {percent:.0%} of the sampling are over: its range "
            "of timesteps leaves that out. Connect the prompt as it is before Conditioning Set "
            "Timestep Range."
        )
    if len(acting) > 1:
        raise ValueError(
            f"'{name}' holds {len(acting)} prompts at once, and this node looks at one. Connect a "
            "prompt as it is before Conditioning Combine."
        )
    text, entry = acting[0]
    if "area" in entry or ("mask" in entry and entry.get("set_area_to_bounds")):
        raise ValueError(
            f"the prompt of '{name}' has an area, and this node looks at the whole image. Connect "
            "the prompt as it is before Conditioning Set Area, or before Conditioning Set Mask "
            "with 'mask bounds'."
        )
    return [text, {key: value for key, value in entry.items() if key not in LIMITS}]


def _acts(entry: Mapping[str, Any], percent: float) -> bool:
    start, end = _range(entry)
    return start <= percent <= end


def _range(entry: Mapping[str, Any]) -> tuple[float, float]:
    """In which shares of the sampling an entry acts, as the host reads it."""
    start = max(entry.get("start_percent", 0.0), entry.get("clip_start_percent", 0.0))
    end = min(entry.get("end_percent", 1.0), entry.get("clip_end_percent", 1.0))
    return start, end
