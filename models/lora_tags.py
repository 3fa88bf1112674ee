"""Read the LoRAs that a person's text names, such as "a knight <lora:arthur:0.8>".

A tag has the name of a file, with or without its ending and its folder, then the strength of the
model's part and that of the text encoder's. A single number serves both, without one it is 1.
"""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import PurePosixPath
from typing import NamedTuple

ENDINGS = (".safetensors", ".sft")  # of the files that are loaded
OTHER_ENDINGS = (".ckpt", ".pt", ".pt2", ".bin", ".pth", ".pkl")  # that the host lists, too
STRONGEST = 100.0  # as in the host's loaders
NEAR = 3  # names in an error
OPENING = re.compile(r"<\s*(?:lora|lyco)\s*:", re.IGNORECASE)
TAG = re.compile(OPENING.pattern + r"([^<>]*)>", re.IGNORECASE)
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")
FORM = "Write <lora:name>, <lora:name:0.8>, or <lora:name:0.8:0.5> for model and text encoder."


class LoraTag(NamedTuple):
    """Hold what one tag says."""

    text: str  # the entire tag, as it was written
    name: str
    strength: float
    strength_clip: float


def has_tag(text: str) -> bool:
    """Say whether a text names a LoRA, also in a tag that can not be read."""
    return bool(OPENING.search(text))


def read_tags(text: str) -> tuple[str, tuple[LoraTag, ...]]:
    """Split a person's text into its words, without the tags, and the tags in their order.

    A text without tags is returned as it is. ValueError, quoting the tag, for one that can not be
    read.
    """
    if not has_tag(text):
        return text, ()
    words = TAG.sub(" ", text)
    if opening := OPENING.search(words):
        raise ValueError(f"the tag {words[opening.start() :].strip()} has no end. {FORM}")
    words = re.sub(r"\s*,(?:\s*,)+", ",", " ".join(words.split()))  # what stood around a tag
    return words.lstrip(", "), tuple(_read_tag(match) for match in TAG.finditer(text))


def _read_tag(match: re.Match[str]) -> LoraTag:
    name, *numbers = (part.strip() for part in match[1].split(":"))
    if not name:
        raise ValueError(f"the tag {match[0]} names no file. {FORM}")
    if len(numbers) > 2:
        raise ValueError(f"the tag {match[0]} has {len(numbers)} parts behind the name. {FORM}")
    for number in numbers:
        if not NUMBER.fullmatch(number):
            raise ValueError(f"the tag {match[0]} has '{number}' for a number. {FORM}")
        if abs(float(number)) > STRONGEST:
            raise ValueError(
                f"the tag {match[0]} has the strength {number}, but it is between "
                f"-{STRONGEST:g} and {STRONGEST:g}."
            )
    strengths = [float(number) for number in numbers] or [1.0]
    return LoraTag(match[0], name, strengths[0], strengths[-1])


def is_loaded(name: str) -> bool:
    """Say whether a file of this name is one that is loaded."""
    return name.lower().endswith(ENDINGS)


def find_file(tag: LoraTag, names: Sequence[str]) -> str:
    """Return the one of these files that a tag means, as the host lists it.

    The file's name may stand without its ending and its folder, and in other letter case where
    only one file fits. ValueError, quoting the tag, if there is none, with the nearest names, or
    several.
    """
    for fits in (_has_path, _has_name):
        for same in (str, str.lower):
            fitting = [name for name in names if fits(_path(same(name)), _path(same(tag.name)))]
            fitting = [name for name in fitting if is_loaded(name)] or fitting
            if len(fitting) > 1:
                raise ValueError(
                    f"the tag {tag.text} fits {len(fitting)} files in models/loras: "
                    f"{', '.join(sorted(fitting)[:NEAR])}. Write the folder and the ending, too."
                )
            if fitting:
                return fitting[0]
    raise ValueError(f"the tag {tag.text} names no file in models/loras. {_advice(tag, names)}")


def _path(name: str) -> str:
    return name.replace("\\", "/")


def _has_path(name: str, path: str) -> bool:
    """Say whether a file is meant by its folder and name, with or without ending."""
    return path in (name, _without_ending(name))


def _has_name(name: str, path: str) -> bool:
    """Say whether a file is meant by the end of its path, with or without ending."""
    return any(full.endswith("/" + path) for full in (name, _without_ending(name)))


def _without_ending(name: str) -> str:
    for ending in (*ENDINGS, *OTHER_ENDINGS):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _stem(name: str) -> str:
    return PurePosixPath(_without_ending(_path(name))).name.lower()


def _advice(tag: LoraTag, names: Sequence[str]) -> str:
    if not names:
        return "There is no file at all: put it there."
    by_stem = {_stem(name): name for name in names}
    near = get_close_matches(_stem(tag.name), by_stem, n=NEAR, cutoff=0.5)
    if not near:
        return "No name there is near it: put the file there, or take the tag out."
    return f"Near it are {', '.join(by_stem[stem] for stem in near)}."
