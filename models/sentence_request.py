"""Ask a language model to divide a sentence among people, with what their pose shows."""

from . import pose, postures
from .pose import People

RULES = """Rules:
- Write {lines}, the leftmost person first, and nothing else: no numbers, no remarks.
- Each line describes that one person alone: who it is, looks, clothes and what they do. Do not \
mention other people, the place, the background, or the words left and right.
- Keep every property that the sentence gives, in its words, with the person it belongs to. What \
is said of several people stands in the line of each of them. Do not invent anything.{pose_rule}

Example. Sentence: a king in a park on the right and two girls, one with a hat
a girl with a hat
a girl
a king"""
POSE_RULE = """
- Give each line to the place where the sentence and the pose fit best. Add what the pose shows at \
the end of the line, unless the sentence says otherwise."""


def read_pose(people: People) -> list[str]:
    """Say what the points show of each person, from left to right; empty where nothing is clear.

    Points of low confidence are to be dropped before (pose.keep_confident).
    """
    people = pose.pick(people, pose.left_to_right(people))
    texts = [postures.text(posture) for posture in postures.describe(people)]
    for touch in postures.touches(people):
        sentence = f"touches the {touch.part} of person {touch.other + 1} with a hand"
        before = texts[touch.person]
        texts[touch.person] = f"{before}, {sentence}" if before else sentence
    return texts


def write_request(sentence: str, count: int = 0, pose_texts: list[str] | None = None) -> str:
    """Write the request for one line per person.

    count: how many people; 0: as many as the sentence has. pose_texts: what read_pose says.
    """
    lines = "one line per person"
    if count:
        lines = "exactly 1 line" if count == 1 else f"exactly {count} lines, one per person"
    whom = "the people" if not count else "1 person" if count == 1 else f"{count} people"
    parts = [f"Divide this sentence about an image among {whom} in it.\n\nSentence: {sentence}"]
    if pose_texts and any(pose_texts):
        rows = (f"{k}. {text or 'not clear'}" for k, text in enumerate(pose_texts, 1))
        parts.append("What the pose shows, from left to right:\n" + "\n".join(rows))
    pose_rule = POSE_RULE if len(parts) > 1 else ""
    parts.append(RULES.format(lines=lines, pose_rule=pose_rule))
    return "\n\n".join(parts)
