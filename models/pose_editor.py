"""The pose editor's state: people with a prompt each, kept as JSON text.

The text is one OpenPose frame, as pose.read_frame reads it, whose persons may also hold a "prompt".
They stand in it from the hindmost to the foremost. The editor in the browser (web/editor) writes
the same text and shows what `editor_scene` makes of it.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import pose
from .pose import People

POSE_LIBRARY = Path(__file__).parent.parent / "web" / "poses.json"  # the editor's own, too
DEFAULT_PROMPT = "a person"  # holds the line of a person without a prompt
REPAIR = "undo the change, or clear the text to begin with one standing person"


class Scene(NamedTuple):
    """People, and what each of them looks like: one line of text per person."""

    people: People
    prompts: tuple[str, ...]


def editor_scene(text: str, given: People | None, width: int, height: int) -> Scene:
    """What the editor shows on a canvas of this size, from the hindmost person to the foremost.

    text: the saved state; where nobody is in it, the given people; without them a standing person
    for an editor that was never used.

    Raises ValueError when the text can not be read or nobody is there.
    """
    state = read_state(text)
    if state is None or not state.prompts:
        if given is not None and pose.count(given):
            state = Scene(given, (DEFAULT_PROMPT,) * pose.count(given))
        elif state is None and given is None:
            state = Scene(fit_canvas(standing_person(), width, height), (DEFAULT_PROMPT,))
        else:
            raise ValueError(
                "nobody is there: add a person in the editor, or connect a 'pose' with people."
            )
    return Scene(fit_canvas(state.people, width, height), state.prompts)


def left_to_right(scene: Scene) -> Scene:
    """The same people as the pack numbers them, each with their prompt."""
    order = pose.left_to_right(scene.people)
    return Scene(pose.pick(scene.people, order), tuple(scene.prompts[n] for n in order))


def read_state(text: str) -> Scene | None:
    """The people of a saved state and their prompts; None for an empty text.

    Raises ValueError saying what is wrong with it and how to mend it.
    """
    if not text.strip():
        return None
    try:
        frame = json.loads(text)
        people = pose.read_frame(frame)
        seen = [person for person in frame["people"] if _is_seen(person, frame)]
        prompts = tuple(_read_prompt(person.get("prompt")) for person in seen)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the input 'people' is not JSON ({error}): {REPAIR}.") from None
    except ValueError as error:
        wrong = f"the input 'people' can not be used: {str(error).rstrip('.')}"
        raise ValueError(f"{wrong}. To mend it, {REPAIR}.") from None
    return Scene(people, prompts)


def _is_seen(person: dict[str, Any], frame: dict[str, Any]) -> bool:
    """Whether read_frame keeps this person: it leaves out those without one known point."""
    return pose.count(pose.read_frame({**frame, "people": [person]})) > 0


def _read_prompt(prompt: Any) -> str:
    if not isinstance(prompt, str | None):
        raise ValueError(f"a 'prompt' must be text, but it is {prompt!r}.")
    return " ".join((prompt or "").split()) or DEFAULT_PROMPT  # one line, whatever was pasted


def fit_canvas(people: People, width: int, height: int) -> People:
    """The same people on another canvas: as large as all of theirs fits on it, and centred."""
    scale = min(width / people.width, height / people.height)
    shift = torch.tensor([width - scale * people.width, height - scale * people.height, 0.0]) / 2
    grow = torch.tensor([scale, scale, 1.0])
    parts = ((part * grow + shift) * (part[..., 2:] > 0) for part in people[:5])
    return pose.people_from_points(parts, width, height)


@cache
def standing_person() -> People:
    """The person whom an unused editor shows: the first of the library."""
    return pose.read_frame(json.loads(POSE_LIBRARY.read_text(encoding="utf-8"))[0])
