"""Test the search for human-centric tokens: forms, phrases, other alphabets, 200 prompts."""

import itertools

import pytest
from vitruvian.lab.world import scenes
from vitruvian.models import human_tokens

# a dancer; as escapes, since not every code page has the letters
RUSSIAN = "\u0442\u0430\u043d\u0446\u043e\u0432\u0449\u0438\u0446\u0430"
JAPANESE = "\u8e0a\u308a\u5b50"
PEOPLE = {
    "a woman": ["woman"], "two women": ["women"], "the dancer's": ["dancer's"],
    "three children": ["children"], "a crowd of tourists": ["crowd", "tourists"],
    "an old man": ["man"], "the ballerinas": ["ballerinas"], "a young lady": ["lady"],
    "ladies": ["ladies"], "a knight": ["knight"],
}  # fmt: skip
ACTIONS = {
    "doing yoga": ["yoga"], "running": ["running"], "dances": ["dances"], "jumped": ["jumped"],
    "kneeling": ["kneeling"], "sat": ["sat"], "waving": ["waving"], "doing kung-fu":
    ["kung", "-", "fu"], "sitting cross-legged": ["sitting", "cross", "-", "legged"],
    "with hands on hips": ["hands", "hips"],
}  # fmt: skip
PLACES = ("on a beach", "in the rain, 85mm", "by a river", "at night, neon")
CASES = [
    (f"{person} {action} {place}", names + verbs)
    for (person, names), (action, verbs), place in itertools.product(
        PEOPLE.items(), ACTIONS.items(), PLACES
    )
]


def pieces(text, longest=3):
    """As CLIP's vocabulary spells them, words cut into pieces of a few letters."""
    letter = {byte: char for char, byte in human_tokens._bytes().items()}
    spelled_pieces = [None]
    for part in human_tokens.WORD_PATTERN.findall(text.lower()):
        spelled = "".join(letter[byte] for byte in part.encode())
        cut = [spelled[k : k + longest] for k in range(0, len(spelled), longest)]
        spelled_pieces += [*cut[:-1], cut[-1] + human_tokens.END]
    return [*spelled_pieces, None]


def human_words_in(text, added=(), removed=()):
    words = human_tokens.join_pieces(pieces(text))
    return [word.text for word in human_tokens.human_words(words, added, removed)]


@pytest.mark.parametrize(("text", "expected"), CASES[::2], ids=lambda case: str(case)[:30])
def test_two_hundred_prompts(text, expected):
    assert human_words_in(text) == expected


def test_there_are_two_hundred():
    assert len(CASES[::2]) == 200


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red barn at dawn",
        "mountains, clouds, a long wooden bridge",
        "a bowl of strawberries",
        "kingdom of glass",
        "manifold",
        "sunset, golden hour, masterpiece",
        "a wing and a ring",
        "ocean waves, a palm tree",
        "an oil painting of a wooden fence",
        "a box, a bow, a bat and a drawing",
    ],
)
def test_prompts_for_things_have_none(text):
    assert human_words_in(text) == []


def test_positions_are_all_pieces_of_the_words():
    listed = pieces("a woman doing yoga")
    words = human_tokens.join_pieces(listed)
    marked = human_tokens.human_token_mask(human_tokens.human_words(words), len(listed))
    spelled = "".join(p for p, m in zip(listed, marked, strict=True) if m)
    assert spelled == "woman</w>yoga</w>" and len(marked) == len(listed)


def test_embeddings_and_marks_are_not_words():
    assert human_tokens.join_pieces([None, "wom", None, "an</w>", None]) == [
        human_tokens.Word("an", (3,))
    ]
    assert human_tokens.human_words(human_tokens.join_pieces([None, "man</w>", None])) == [
        human_tokens.Word("man", (1,))
    ]


def test_words_and_phrases_in_any_alphabet_can_be_added_and_removed():
    assert human_words_in("a centaur rests", added=["Centaur"]) == ["centaur", "rests"]
    assert human_words_in("a man and a horse", removed=["man"]) == []
    assert human_words_in("two men", removed=["men"]) == []
    assert human_words_in("she does tai chi", added=["tai chi"]) == ["tai", "chi"]
    assert human_words_in("chi tai", added=["tai chi"]) == []
    assert human_words_in("two men and a man", removed=["two men"]) == ["man"]
    assert human_words_in("a man, an iron man", added=["iron man"], removed=["man"]) == [
        "iron",
        "man",
    ]
    assert human_words_in(f"{RUSSIAN} \u043d\u0430", added=[RUSSIAN.capitalize()]) == [RUSSIAN]
    assert human_words_in(f"\u7802\u6d5c \u306e {JAPANESE}", added=[JAPANESE]) == [JAPANESE]
    assert human_words_in("une danseuse élancée", added=["ÉLANCÉE"]) == ["élancée"]
    assert human_words_in("anything", added=["", " "], removed=[""]) == []


def test_every_action_of_the_mini_world_is_found():
    for action in scenes.ACTIONS.values():
        assert human_words_in(action.phrase), action.phrase
    assert human_words_in("a man") and human_words_in("a woman") and human_words_in("four people")
