"""Find the words of a sentence that name people: "two tall men in suits" -> two of "tall man".

The word lists are people_words.txt, place_words.txt and, for what is worn, clothing_words.txt. The
rules are for English.
"""

import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
NUMBERS = dict(
    zip("one two three four five six seven eight nine ten".split(), range(1, 11), strict=True)
)
ORDINALS = dict(zip("first second third fourth fifth sixth".split(), range(6), strict=True))
ARTICLES = frozenset("a an the this that".split())
POSSESSIVES = frozenset("his her their its my your our".split())
UNCOUNTED = frozenset(
    "some several many few various countless numerous all dozens hundreds thousands lots dozen "
    "more most other".split()
)
PREPOSITIONS = frozenset(
    "in on at with of by under over near to into onto from for through along across around behind "
    "beside besides between inside outside above below against during towards toward down up off "
    "without within among beneath underneath like as past amid next after before".split()
)
BE = frozenset("is are was were be being been".split())
BASES = frozenset(  # what several people do: 'a man and a woman dance'
    "hold stand sit lie kneel walk run jump dance play look watch ride carry read eat drink talk "
    "smile laugh cry sleep sing hug kiss chase fight meet face help wait point wave lean pose give "
    "take push pull greet follow shake work cook serve teach argue chat march swim share cut "
    "celebrate pray cheer jog row race wrestle duel embrace gather cuddle study stare climb "
    "hike ski skate relax rest enjoy have wear".split()
)
DOUBLED = frozenset("sit run hug chat swim cut jog".split())  # their last letter, before -ing


def third_person(base: str) -> str:
    """Write what one person does: dance -> dances."""
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x")) else "s")


def gerund(base: str) -> str:
    """Write what somebody is doing: dance -> dancing."""
    if base in DOUBLED:
        return base + base[-1] + "ing"
    if base == "lie":
        return "lying"
    return (base[:-1] if base.endswith("e") and base[-2] != "e" else base) + "ing"


FINITE = frozenset(
    {*BASES, *map(third_person, BASES), *"has had can does do did stood sat wore held".split()}
)
JOINERS = frozenset("and & an' plus while or nor but then where when whereas versus vs vs.".split())
RELATIVES = frozenset("who whom that which whose".split())
PRONOUNS = frozenset("he she it they him them both each everyone everybody one".split())
ADVERBS = frozenset(
    "how what why please to too very @ together alone there here happily slowly quietly side back "
    "hand".split()
)
STOPS = PREPOSITIONS | BE | FINITE | JOINERS | RELATIVES | PRONOUNS
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "people": "person", "persons": "person",
    "wolves": "wolf", "elves": "elf", "dwarves": "dwarf", "wives": "wife", "thieves": "thief",
    "geese": "goose", "mice": "mouse", "oxen": "ox", "calves": "calf", "folks": "person",
    "kids": "kid", "folk": "person", "dice": "die", "feet": "foot", "heroes": "hero",
}  # fmt: skip
ENDINGS = (("oes", "o"), ("men", "man"), ("ies", "y"), ("sses", "ss"), ("shes", "sh"))
SAME = frozenset("sheep deer fish samurai ninja police moose".split())  # in the plural


class Token(NamedTuple):
    """Hold a word as it is written, and plain: in lower case, without brackets and weights."""

    text: str
    word: str


class Mention(NamedTuple):
    """Name somebody in tokens[start:stop]."""

    start: int
    stop: int
    noun: str  # in the singular
    size: int  # 0: not said how many
    text: str  # without article and number, in the singular
    kind: str  # people, animals or groups
    definite: bool  # 'the', or with the owner: 'his'


TOKENS = re.compile(r"@\w+|\(+[^\s,;]+|[^\s,;:.!?—–]+(?:[:.'’][^\s,;:.!?—–]+)*|[,;:.!?—–]|\n")
WEIGHT = re.compile(r":\d.*$")
JOINED = re.compile(r"\b(\d+)(girl|boy|man|men|woman|women|people|person|other|child)", re.I)


def tokenize(sentence: str) -> list[Token]:
    """Split a sentence into words and marks; '2girls' becomes two words."""
    spaced = JOINED.sub(r"\1 \2", re.sub(r"\s-\s", " : ", sentence))
    texts = ["." if text in ("\n", "BREAK", "!", "?") else text for text in TOKENS.findall(spaced)]
    return [Token(text, _plain(text)) for text in texts]


def _plain(text: str) -> str:
    if text in ("—", "–"):
        return ","
    return WEIGHT.sub("", text.lower().strip("()[]{}\"“”'’")) or text


def is_mark(word: str) -> bool:
    """Say whether this is a comma or another mark between phrases."""
    return word in (",", ";", ":", ".")


@cache
def listed(name: str) -> dict[str, dict[str, str]]:
    """Read the sections of a list of words: word -> what stands behind it, or an empty text."""
    sections: dict[str, dict[str, str]] = {}
    lines = (FOLDER / f"{name}_words.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            if " " in line and line.split()[1].isdigit():
                section[line.split()[0]] = line.split()[1]
            else:
                section.update(dict.fromkeys(line.split(), ""))
    return sections


def in_section(word: str, name: str, *sections: str) -> bool:
    """Say whether a word, or its singular, is in these sections of a list; in any, if none."""
    lists = listed(name)
    return any(
        form in lists[section] for section in sections or lists for form in (word, singular(word))
    )


def singular(word: str) -> str:
    """Write a noun in the singular, by rule."""
    if word in IRREGULAR or word in SAME:
        return IRREGULAR.get(word, word)
    for ending, instead in (
        ("oes", "o"),
        ("men", "man"),
        ("ies", "y"),
        ("sses", "ss"),
        ("shes", "sh"),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    if word.endswith(("ches", "xes", "zes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


@cache
def person_noun(word: str) -> tuple[str, str] | None:
    """Return the singular and the kind of a noun that names somebody, also with letters swapped."""
    for kind in ("people", "animals", "groups", "sizes"):
        for form in (word, singular(word)):
            if form in listed("people")[kind]:
                return form, "groups" if kind == "sizes" else kind
    parts = word.rsplit("-", 1)
    if len(parts) == 2 and len(parts[1]) > 2 and (last := person_noun(parts[1])):
        return f"{parts[0]}-{last[0]}", last[1]
    similar = get_close_matches(word, listed("people")["people"], 1, 0.8) if len(word) > 4 else []
    if similar and sorted(similar[0]) == sorted(word) and similar[0][0] == word[0]:
        return word, "people"
    return None


def number(word: str) -> int | None:
    """Read a number up to 99, in words up to ten."""
    if word.isdigit() and 0 < int(word) < 100:
        return int(word)
    return NUMBERS.get(word)


def is_plural(word: str) -> bool:
    """Say whether a noun is in the plural, by its form."""
    return singular(word) != word


def mentions(tokens: list[Token]) -> list[Mention]:
    """Find the nouns that name somebody, with what belongs to each of them before it."""
    named: list[Mention] = []
    for place in range(len(tokens)):
        noun = person_noun(tokens[place].word)
        if noun and _is_head(tokens, place):
            mention = _mention(tokens, place, *noun)
        else:
            mention = _named(tokens, place, named[-1].stop if named else 0)
        if mention and (not named or mention.start >= named[-1].stop):
            named.append(mention)
    return named


def _is_head(tokens: list[Token], place: int) -> bool:
    """Say whether a noun ends its phrase: 'cowboy' does not in 'a cowboy hat'."""
    word = tokens[place].word
    if word.endswith(("'s", "’s")) or place + 1 == len(tokens):
        return not word.endswith(("'s", "’s"))
    after = tokens[place + 1].word
    if is_mark(after) or after[0] in "@<" or after in STOPS | ARTICLES | POSSESSIVES | ADVERBS:
        return True
    if number(after) or after in listed("place")["places"] and not is_plural(word):
        return False
    if after.endswith(("ing", "ed")) or is_plural(word) or in_section(after, "clothing", "looks"):
        return True
    is_verb = after.endswith("s") and not person_noun(after) and not in_section(after, "clothing")
    follows = tokens[place + 2].word if place + 2 < len(tokens) else "."
    return is_verb and (follows in PREPOSITIONS | ARTICLES | POSSESSIVES or is_mark(follows))


def _mention(tokens: list[Token], place: int, noun: str, kind: str) -> Mention | None:
    """Extend a noun to the left over its adjectives, to its article or number."""
    start, opening = place, ""
    while start > 0:
        word = tokens[start - 1].word
        if word in ARTICLES | POSSESSIVES or number(word) or word in UNCOUNTED:
            start, opening = start - 1, word
            if start and number(word) and tokens[start - 1].word in POSSESSIVES:
                start -= 1
            break
        if is_mark(word) and not _lists_adjectives(tokens, start - 1):
            break
        if word in STOPS or word[0] == "@":
            break
        start -= 1
    before = tokens[start - 1].word if start else ""
    if opening == "the" and start < place and number(tokens[start + 1].word):
        opening = tokens[start + 1].word
    if not opening:
        for inner in range(start, place):
            if tokens[inner].word.endswith("ing"):
                start, before = inner + 1, tokens[inner].word
        if not is_plural(tokens[place].word) and before.endswith("ing"):
            return None
    if before in ("as", "like", "without", "no", "for", "about", "than"):
        return None
    words = [token for token in tokens[start:place] if token.word not in ARTICLES | UNCOUNTED]
    texts = [token.text for token in words if not number(token.word)]
    head = noun if is_plural(tokens[place].word) else tokens[place].text
    counted = next((number(token.word) for token in words if number(token.word)), None)
    count = counted or (0 if _is_uncounted(tokens[place].word, opening) else 1)
    definite = opening == "the" or opening in POSSESSIVES
    return Mention(start, place + 1, noun, count or 0, " ".join([*texts, head]), kind, definite)


def _is_uncounted(word: str, opening: str) -> bool:
    return is_plural(word) or word in ("people", "folk", "folks") or opening in UNCOUNTED


def _lists_adjectives(tokens: list[Token], mark: int) -> bool:
    """Say whether a comma stands between adjectives, as in 'a tall, thin wizard'."""
    words = [token.word for token in tokens[max(0, mark - 2) : mark]]
    return (
        tokens[mark].word == "," and len(words) == 2 and words[0] in ARTICLES and words[1] in SHORT
    )


SHORT = frozenset(
    "tall small short old young big little fat thin slim strong beautiful pretty handsome happy "
    "sad large huge tiny long dark pale bald blond blonde fierce elegant".split()
)


def _named(tokens: list[Token], place: int, free: int) -> Mention | None:
    """Find a name of at least two capitalized words, or one behind a comma, 'and' or a colon."""
    start = place
    while start > free and _is_name(tokens[start - 1]):
        start -= 1
    ends = place + 1 == len(tokens) or not _is_name(tokens[place + 1])
    if not _is_name(tokens[place]) or not ends or any(map(_is_known, tokens[start : place + 1])):
        return None
    before = tokens[start - 1].word if start else ""
    if place - start + 1 < 2 and before not in (",", "and", ":"):
        return None
    if before and not is_mark(before) and before not in JOINERS:
        return None
    after = tokens[place + 1].word if place + 1 < len(tokens) else "."
    if not (is_mark(after) or after in STOPS or after.endswith("ing")):
        return None
    text = " ".join(token.text for token in tokens[start : place + 1])
    return Mention(start, place + 1, text.lower(), 1, text, "people", True)


def _is_name(token: Token) -> bool:
    return token.text[:1].isupper() and token.text[1:].islower() and token.word not in STOPS


def _is_known(token: Token) -> bool:
    """Say whether a capitalized word is a common one, at the beginning of a sentence."""
    word = token.word
    return (
        word in ARTICLES | POSSESSIVES | UNCOUNTED
        or number(word) is not None
        or word in ORDINALS
        or word.endswith("ing")
        or person_noun(word) is not None
        or in_section(word, "place")
        or in_section(word, "clothing")
    )
