"""Read the state of the pose editor: people with a prompt each, saved as JSON text.

The text is one OpenPose frame, as pose.read_frame reads it, in which a person may also have a
"prompt", and a "turn": what they were before they were turned in depth, which only the editor
needs. The people are listed from back to front. The editor in the browser (web/editor) writes
this text and shows the scene that `editor_scene` returns.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from . import pose
from .plain_words import json_place, quote
from .pose import People
from .pose_points import AGAIN

POSE_LIBRARY = Path(__file__).parent.parent / "web" / "poses.json"  # the editor reads it, too
DEFAULT_PROMPT = "a person"  # of a person without a prompt
# a new editor's text: two people stand in it, until a pose is connected or somebody is edited
UNTOUCHED = '{"canvas_width": 512, "canvas_height": 512, "people": [], "untouched": true}'
PAIR = "standing side by side"  # the two people, as the library calls them
REPAIR = "undo the change, or clear the text to begin with one standing person"


class Scene(NamedTuple):
    """Hold people and what each of them looks like: one line of text per person."""

    people: People
    prompts: tuple[str, ...]


def editor_scene(text: str, connected: People | None, width: int, height: int) -> Scene:
    """Build the scene that the editor shows on a canvas of this size, people from back to front.

    text: the saved state. If it has no people, the connected people are used; without these, an
    editor that was never used shows two people who stand side by side, and one standing person if
    its text is empty.

    Raises ValueError when the text can not be read or there are no people.
    """
    state = read_state(text)
    if state is None or not state.prompts:
        if connected is not None and pose.count(connected):
            state = Scene(connected, (DEFAULT_PROMPT,) * pose.count(connected))
        elif connected is None and (state is None or _is_untouched(text)):
            nobody_posed = library_people("standing" if state is None else PAIR)
            state = Scene(nobody_posed, (DEFAULT_PROMPT,) * pose.count(nobody_posed))
        else:
            raise ValueError(
                "there are no people: add a person in the editor, or connect a 'pose' with people."
            )
    return Scene(fit_canvas(state.people, width, height), state.prompts)


def left_to_right(scene: Scene) -> Scene:
    """Order people and prompts from left to right, as the other nodes number people."""
    order = pose.left_to_right(scene.people)
    return Scene(pose.pick(scene.people, order), tuple(scene.prompts[n] for n in order))


def read_state(text: str) -> Scene | None:
    """Read the people and prompts of a saved state; None for an empty text.

    Raises ValueError that says what is wrong with it and how to repair it.
    """
    if not text.strip():
        return None
    try:
        frame = json.loads(text)
        if isinstance(frame, dict):  # the editor lets people reach far beyond the canvas
            frame = {"people": None, **frame, pose.POINTS_OUTSIDE: True}
        people = pose.keep_confident(pose.read_frame(frame))
        persons = [person for person in frame["people"] or () if _is_visible(person, frame)]
        prompts = tuple(_read_prompt(person) for person in persons)
    except json.JSONDecodeError as error:
        place = json_place(error)
        raise ValueError(f"the input 'people' is not JSON from {place} on: {REPAIR}.") from None
    except RecursionError:
        raise ValueError(
            f"the input 'people' is not JSON for a pose, its lists are nested too deep: {REPAIR}."
        ) from None
    except ValueError as error:
        wrong = f"the input 'people' can not be used: {str(error).removesuffix(AGAIN).rstrip('. ')}"
        raise ValueError(f"{wrong}. To repair it, {REPAIR}.") from None
    return Scene(people, prompts)


def _is_visible(person: dict[str, Any], frame: dict[str, Any]) -> bool:
    """Whether this person has a point that counts: people without one are left out."""
    alone = pose.read_frame({**frame, "people": [person]})
    return pose.count(pose.keep_confident(alone)) > 0


def _read_prompt(person: Any) -> str:
    prompt = person.get("prompt") if isinstance(person, dict) else None
    if not isinstance(prompt, str | None):
        raise ValueError(f"a 'prompt' must be text, but it is {quote(prompt)}.")
    return " ".join((prompt or "").split()) or DEFAULT_PROMPT  # one line, whatever was pasted


def fit_canvas(people: People, width: int, height: int) -> People:
    """Scale the people by one factor so that their canvas fits into another one, centered."""
    scale = min(width / people.width, height / people.height)
    shift = torch.tensor([width - scale * people.width, height - scale * people.height, 0.0]) / 2
    grow = torch.tensor([scale, scale, 1.0])
    parts = ((part * grow + shift) * (part[..., 2:] > 0) for part in people[:5])
    return pose.people_from_points(parts, width, height)


def _is_untouched(text: str) -> bool:
    """Whether a text without people says that nobody has edited them yet."""
    return json.loads(text).get("untouched") is True


@cache
def library_people(name: str) -> People:
    """Return the people of the library's pose of this name."""
    frames = json.loads(POSE_LIBRARY.read_text(encoding="utf-8"))
    return pose.read_frame(next(frame for frame in frames if frame["name"] == name))
