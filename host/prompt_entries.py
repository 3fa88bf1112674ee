"""Choose the entry of a CONDITIONING that a node looks at; refuse limits that it can not honor."""

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
    if _is_cropped(entry):
        raise ValueError(
            f"the prompt of '{name}' has an area, and this node looks at the whole image. Connect "
            "the prompt as it is before Conditioning Set Area, or before Conditioning Set Mask "
            "with 'mask bounds'."
        )
    return [text, {key: value for key, value in entry.items() if key not in LIMITS}]


def check_entire_image(conditionings: Mapping[str, Any]) -> None:
    """Refuse conditionings, by the names of their inputs, that see a crop of the image only: the
    host would squeeze the hint of a ControlNet into the crop.
    """
    for name, conditioning in conditionings.items():
        if any(_is_cropped(entry) for _, entry in conditioning):
            raise ValueError(
                f"a prompt of '{name}' has an area, and the images would be squeezed into it. "
                "Connect the prompt as it is before Conditioning Set Area, or limit it with "
                "Conditioning Set Mask instead."
            )


def check_unlimited(entry: Mapping[str, Any], number: int, name: str = "positive") -> None:
    """Refuse an entry that counts in a part of the image, or of the sampling, only.

    number: of the entry in the node's input `name`, from 1.
    """
    limits = {
        "an area": "area" in entry,
        "a mask": "mask" in entry,
        "a range of timesteps": _range(entry) != (0.0, 1.0),
    }
    present = " and ".join(limit for limit, is_there in limits.items() if is_there)
    if present:
        raise ValueError(
            f"text {number} of '{name}' has {present}, but in training a text describes "
            "the entire image at every moment. Connect the text as its encoding node gives it."
        )


def _is_cropped(entry: Mapping[str, Any]) -> bool:
    return "area" in entry or ("mask" in entry and bool(entry.get("set_area_to_bounds")))


def _acts(entry: Mapping[str, Any], percent: float) -> bool:
    start, end = _range(entry)
    return start <= percent <= end


def _range(entry: Mapping[str, Any]) -> tuple[float, float]:
    """In which shares of the sampling an entry acts, as the host reads it."""
    start = max(entry.get("start_percent", 0.0), entry.get("clip_start_percent", 0.0))
    end = min(entry.get("end_percent", 1.0), entry.get("clip_end_percent", 1.0))
    return start, end
