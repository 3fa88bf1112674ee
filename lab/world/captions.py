"""Captions of scenes: one for the whole image, one per person, all from a closed vocabulary."""

from __future__ import annotations

import re

from .scenes import (
    ACTIONS,
    BACKGROUNDS,
    BOTTOMS,
    COLORS,
    FRAMINGS,
    GESTURE_PHRASES,
    GESTURES,
    HAIR_LENGTHS,
    HAIRS,
    HAND,
    PATTERNS,
    SEXES,
    SKINS,
    Scenes,
)

NUMBERS = ("one", "two", "three", "four")


def _name(table: dict | tuple, index) -> str:
    return list(table)[int(index)]


def _garment(color, pattern, noun: str) -> str:
    pattern = _name(PATTERNS, pattern)
    return (
        f"{_name(COLORS, color)} {noun}"
        if pattern == "plain"
        else f"{_name(COLORS, color)} {pattern} {noun}"
    )


def person_caption(scenes: Scenes, person: int, *, brief: bool = False, hats: bool = True) -> str:
    """Describe one person's looks and action, without the setting. `brief` keeps to sex, top,
    bottom, hat and action.
    """
    p = scenes.people.take(slice(person, person + 1))  # type: ignore[arg-type]
    sex, action = _name(SEXES, p.sex), list(ACTIONS.values())[int(p.action)].phrase
    top = _garment(p.top, p.top_pattern, "top")
    bottom = _garment(p.bottom, p.bottom_pattern, _name(BOTTOMS, p.bottom_kind))
    bottom = _article(bottom) if _name(BOTTOMS, p.bottom_kind) == "skirt" else bottom
    hat = f"{_name(COLORS, p.hat)} hat" if hats and int(p.hat) >= 0 else ""
    if brief:
        worn = f"{_article(top)} and {bottom}" + (f" and {_article(hat)}" if hat else "")
        return f"a {sex} in {worn}, {action}"
    hair = f"{_name(HAIR_LENGTHS, p.hair_length)} {_name(HAIRS, p.hair)} hair"
    looks = f"with {_name(SKINS, p.skin)} skin and {hair}"
    worn = f"wearing {_article(top)}, {bottom}"
    shoes = f"{_name(COLORS, p.shoes)} shoes"
    worn += f", {shoes} and {_article(hat)}" if hat else f" and {shoes}"
    return f"a {sex} {looks} {worn}, {action}"


def scene_caption(scenes: Scenes, scene: int, *, brief: bool = False) -> str:
    """Describe the whole image: its people from left to right, the setting and the framing."""
    people = (scenes.people.scene == scene).nonzero()[:, 0].tolist()
    setting = _name(BACKGROUNDS.values(), scenes.background[scene])  # type: ignore[arg-type]
    framing = _name(FRAMINGS, scenes.framing[scene])
    if int(scenes.framing[scene]) == HAND:
        return hand_caption(scenes, people[0], int(scenes.hand[scene]), setting)
    if len(people) == 1:
        return f"{person_caption(scenes, people[0], brief=brief)}, {setting}, {framing}"
    hats = len(people) < 4  # four people with hats would not fit CLIP's 77 tokens
    each = "; ".join(person_caption(scenes, i, brief=True, hats=hats) for i in people)
    return f"{_counted(len(people))} {setting}, {framing}: {each}"


def _counted(people: int) -> str:
    """Count people in words; more than the vocabulary has a number for are just people."""
    return f"{NUMBERS[people - 1]} people" if people <= len(NUMBERS) else "people"


def hand_caption(scenes: Scenes, person: int, side: int, setting: str) -> str:
    """Describe a close-up of one person's right (0) or left (1) hand."""
    p = scenes.people.take(slice(person, person + 1))  # type: ignore[arg-type]
    gesture = GESTURE_PHRASES[_name(GESTURES, p.gesture[0, side])]
    sleeve = (
        f" and {_article(_garment(p.top, p.top_pattern, 'sleeve'))}" if int(p.long_sleeves) else ""
    )
    looks = f"{gesture} with {_name(SKINS, p.skin)} skin{sleeve}"
    return f"{FRAMINGS[HAND]}, {('right', 'left')[side]}: {looks}, {setting}"


def _article(noun: str) -> str:
    return f"{'an' if noun[:1] in 'aeiou' else 'a'} {noun}"


def _all_words() -> tuple[str, ...]:
    phrases = [
        *COLORS,
        *PATTERNS,
        *SKINS,
        *HAIRS,
        *HAIR_LENGTHS,
        *SEXES,
        *BOTTOMS,
        *BACKGROUNDS.values(),
        *FRAMINGS,
        *NUMBERS,
        *GESTURE_PHRASES.values(),
        *(a.phrase for a in ACTIONS.values()),
        "a an in with wearing and people person top sleeve hat shoes skin hair right left : ; , .",
    ]
    return tuple(sorted({w for phrase in phrases for w in re.findall(r"[a-z]+|[^\sa-z]", phrase)}))


WORDS = _all_words()
