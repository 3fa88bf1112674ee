"""Split a sentence about several people into one text for each, leftmost first, by rule.

"two girls, one with a hat, in a park" -> "a girl with a hat", "a girl", and the setting "in a
park". The rules are for English and small; where they may be wrong the split says so.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .sentence_details import (
    CLOTHES,
    SCENE_OPENINGS,
    SOCIAL,
    STYLE_OF,
    TOGETHER,
    Piece,
    cut_place,
    divide,
    for_one,
    is_detail,
    is_for_each,
    text_of,
    trimmed,
)
from .sentence_spans import SIDES, Span, find_spans, with_marks, without_sides
from .sentence_words import (
    ARTICLES,
    BASES,
    BE,
    FINITE,
    JOINERS,
    POSSESSIVES,
    PREPOSITIONS,
    Token,
    gerund,
    in_section,
    is_mark,
    tokenize,
)


class Split(NamedTuple):
    """Hold one text per person, leftmost first, what belongs to all of them, and all doubts."""

    persons: tuple[str, ...]
    setting: str
    doubts: tuple[str, ...]  # why the split may be wrong; none: it is sure


GENERIC = frozenset("person people human figure character subject individual one man woman".split())
MEN = frozenset(
    "man guy boy gentleman king prince father husband groom son brother grandfather actor waiter "
    "dad sailor monk knight uncle grandson boyfriend he".split()
)
WOMEN = frozenset(
    "woman lady girl queen princess mother wife bride daughter sister grandmother actress "
    "waitress mom nun aunt granddaughter girlfriend she".split()
)


class Person:
    """Gather what a sentence says about one person while it is read."""

    def __init__(self, noun: str, text: str, group: int):
        self.noun, self.text, self.group = noun, text, group
        self.details: list[str] = []
        self.side: float | None = None
        self.is_named = text[:1].isupper()
        self.described = False  # a part of the group was said to be this one

    def sentence(self) -> str:
        """Write the text of this person."""
        article = "" if self.is_named else "an " if self.text[:1].lower() in "aeiou" else "a "
        return article + self.text + "".join(self.details)


class Scene:
    """Gather the people of a sentence, span by span."""

    def __init__(self) -> None:
        self.persons: list[Person] = []
        self.groups: list[list[Person]] = []
        self.setting: list[str] = []
        self.doubts: list[str] = []
        self.current: list[Person] = []  # whom the next words are about
        self.listed: int | None = None  # the group whose members are being listed
        self.relations: list[tuple[list[Person], str]] = []
        self.unknown: list[int] = []  # groups of unknown size

    def doubt(self, reason: str) -> None:
        """Note once why the split may be wrong."""
        if reason not in self.doubts:
            self.doubts.append(reason)

    def add(self, span: Span, count: int) -> None:
        """Add somebody new."""
        mention = span.mention
        text = " ".join(w for w in mention.text.split() if w.lower() not in POSSESSIVES)
        text, sides = without_sides(text)
        texts, noun = [text] * count, mention.noun
        if mention.kind == "groups" and noun == "couple":
            looks = text.rsplit(" ", 1)[0] + " " if " " in text else ""
            texts = [f"{looks}man", f"{looks}woman"]
        group = len(self.groups)
        self.current = [Person(each.split()[-1], each, group) for each in texts]
        for person in self.current:
            person.side = sides[0] if sides else None
            person.noun = noun if mention.kind != "groups" else person.noun
        self.groups.append(self.current)
        self.persons += self.current

    def part(self, span: Span) -> None:
        """Turn to the next members of the last group, or to the one of an ordinal."""
        sized = [group for group in self.groups if len(group) > 1]
        if not sized and len(self.groups) == 1 and span.mention.size == 1 and span.place is None:
            person = self.persons[0]  # 'a girl with a hat and another with a scarf'
            person.described = True
            self.add(span._replace(mention=span.mention._replace(text=person.noun)), 1)
            return
        group = sized[-1] if sized else []
        text, sides = without_sides(span.mention.text)
        if span.place is not None:
            members = group[span.place : span.place + 1]
        else:
            open_members = [person for person in group if not person.described]
            members = open_members[: span.mention.size or len(open_members)]
        if not members or len(members) < span.mention.size:
            self.doubt("more people are described than are counted")
        for person in members:
            person.described = True
            person.side = sides[0] if sides else person.side
            if text:
                person.text = f"{text} {person.text}"
        self.current = members

    def replace(self, span: Span) -> bool:
        """Let somebody be the next member of the group that is listed; say whether one is."""
        if self.listed is None:
            return False
        group = self.groups[self.listed]
        members = [person for person in group if not person.described]
        text, sides = without_sides(span.mention.text)
        if not members or len(members) < span.mention.size:
            return False
        for person in members[: span.mention.size]:
            person.described, person.noun, person.text = True, span.mention.noun, text
            person.is_named = text[:1].isupper()
            person.side = sides[0] if sides else person.side
        self.current = members[: span.mention.size]
        return True

    def again(self, noun: str, side: float | None = None) -> bool:
        """Turn to somebody who was named before; say whether there is one.

        Somebody who is on another side than this is somebody else.
        """
        if noun in ("he", "she"):
            alike, unlike = (MEN, WOMEN) if noun == "he" else (WOMEN, MEN)
            fitting = [p for p in self.persons if p.noun in alike] or [
                p for p in self.current[-1:] if p.noun not in unlike
            ]
        else:
            single = [p for p in self.persons if len(self.groups[p.group]) == 1]
            fitting = [p for p in single if p.noun == noun]
            couple = [
                p
                for p in self.persons
                if p not in single and p.text.split()[-1] == noun and not p.described
            ]
            fitting = [p for p in fitting if None in (side, p.side) or p.side == side]
            fitting = fitting or couple[:1]
        if fitting:
            self.current = fitting[-1:]
            self._mention_next(fitting[-1])
        return bool(fitting)

    def _mention_next(self, person: Person) -> None:
        """Put a member of a couple behind those of it who were spoken of before."""
        group = self.groups[person.group]
        if not person.described and len(group) > 1:
            place = self.persons.index(group[0])
            group.sort(key=lambda member: (not member.described, member is not person))
            self.persons[place : place + len(group)] = group
        person.described = True

    def read(self, piece: Piece, span: Span, *, is_last: bool) -> None:
        """Give the words behind a mention to the person, to all people, or to the setting."""
        for person in self.current:
            person.side = piece.sides[0] if piece.sides else person.side
        for position, segment in enumerate(piece.segments):
            if position and {"background", "setting", "scene"} & {t.word for t in segment[:2]}:
                self._leave(segment)
                continue
            detail, place = cut_place(segment)
            if place:
                self.setting.append(text_of(place))
            detail = trimmed(detail) if place else detail
            if not detail:
                continue
            if position and not place and not is_detail(detail):
                self._leave(detail)
            elif position and is_last and self._is_shared(detail):
                self._describe(self.persons, detail, ", ")
            elif position:
                self._describe(self.current, detail, ", ")
            else:
                self._tell(detail, span, is_last=is_last)

    def _leave(self, words: list[Token]) -> None:
        if len(words) == 1 and in_section(words[0].word, "clothing", "looks"):
            self.doubt(f"it is not clear whom '{words[0].text}' is about")
        while len(words) > 1 and words[0].word in SCENE_OPENINGS:
            words = words[1:]
        self.setting.append(text_of(words))

    def _tell(self, words: list[Token], span: Span, *, is_last: bool) -> None:
        """Tell the current people a detail; what all do, as 'dancing', is told to all."""
        start = self._shared_start(words, span) if is_last else len(words)
        self._describe(self.current, words[:start])
        self._describe(self.persons, words[start:])

    def _shared_start(self, words: list[Token], span: Span) -> int:
        """Find where the words begin that are about everybody: 'a cat and a dog sitting'."""
        if span.kind != "new" or len(self.groups) < 2:
            return len(words)
        earlier = [person for person in self.persons if person not in self.current]
        if any(_acts(person) for person in earlier):
            return len(words)
        for place, token in enumerate(words):
            if token.word in BASES:
                return place
            two = " ".join(word.word for word in words[place : place + 2])
            if token.word.endswith("ing") and token.word not in ("wearing", "evening"):
                plain = not place and not any(person.details for person in earlier)
                social = token.word in SOCIAL or two in TOGETHER
                return place if social or plain and token.word != "holding" else len(words)
        plain = len(self.current) == 1 and not any(person.details for person in earlier)
        if plain and words[0].word in ("in", "wearing") and is_for_each(words):
            return 0
        return len(words)

    def _is_shared(self, words: list[Token]) -> bool:
        if len(self.persons) < 2:
            return False
        two = " ".join(word.word for word in words[:2])
        first = words[0].word
        if first in SOCIAL or two in TOGETHER:
            return True
        worn = words[-1].word in CLOTHES or in_section(words[-1].word, "clothing")
        grouped = len(self.groups) < len(self.persons)
        return worn and grouped and not first.endswith("ing") and first not in PREPOSITIONS

    def _describe(self, persons: list[Person], words: list[Token], before: str = " ") -> None:
        """Add a detail to people, behind a space or a comma."""
        if not words:
            return
        if words[0].word in BASES:
            words = [Token(gerund(words[0].word), gerund(words[0].word)), *words[1:]]
        many = len(persons) > 1
        detail = text_of(for_one(words) if many else words)
        for person in persons:
            if words[0].word in LOOKS_ALONE and len(words) == 1:
                person.text = f"{detail} {person.text}"
            else:
                person.details.append(before + detail)


LOOKS_ALONE = frozenset(
    "black white grey gray red green blue yellow orange purple pink brown tall short old "
    "young".split()
)


def _acts(person: Person) -> bool:
    """Say whether it is said already what somebody does."""
    words = [word for detail in person.details for word in detail.split()]
    return any(word in FINITE or word.endswith("ing") and word != "wearing" for word in words)


def split_sentence(sentence: str, count: int = 0) -> Split:
    """Split a sentence into one text per person, leftmost first, and what belongs to all.

    count: how many people there are; 0 if that is not known. It also says how many 'people' or 'a
    crowd' are. Who is where is read from the sentence; else the order is that of the sentence.
    """
    tokens = tokenize(with_marks(sentence))
    spans = find_spans(tokens)
    scene = Scene()
    if not spans:
        return Split((), "", ("nobody is named",))
    if any(token.word in ("or", "either") for token in tokens):
        scene.doubt("it names one person or another")
    lead = _read_beginning(scene, tokens[: spans[0].start])
    for number_of_span, span in enumerate(spans):
        is_last = number_of_span + 1 == len(spans)
        stop = len(tokens) if is_last else spans[number_of_span + 1].start
        piece = divide(tokens[span.stop : stop], last=is_last)
        previous = spans[number_of_span - 1] if number_of_span else None
        _turn(scene, span, previous, tokens, count)
        for person in scene.current:
            person.side = lead[0] if lead else person.side
        if not _is_copula(tokens[span.stop : stop], is_last=is_last):
            later = any(later.kind == "new" for later in spans[number_of_span + 1 :])
            scene.read(piece, span, is_last=not later)
        if piece.relation and scene.current:
            scene.relations.append((list(scene.current), piece.relation))
        _follow_list(scene, span, piece, tokens[span.stop : stop])
        lead = piece.next_sides
    unknown = _unknown(tokens, spans)
    if unknown:
        scene.doubt(f"it is not clear who '{unknown}' is")
    _check(scene, count)
    persons = tuple(person.sentence() for person in _ordered(scene))
    return Split(persons, _joined_setting(scene.setting), tuple(scene.doubts))


def _unknown(tokens: Sequence[Token], spans: Sequence[Span]) -> str:
    """Find words that stand like a person, but name nobody known: 'a nun and a zorg', and 'a zorg
    on the left'.
    """
    stops = {span.stop for span in spans}
    starts = {span.start for span in spans}
    start, is_second = 0, False
    for place, token in enumerate(tokens):
        if is_mark(token.word) or token.word in JOINERS:
            start, is_second = place + 1, place in stops and token.word == "and"
            continue
        phrase = tokens[start : place + 1]
        if phrase[0].word not in ARTICLES | POSSESSIVES or starts & set(range(start, place + 1)):
            continue
        if token.word[0] == "@" and place > start:
            return text_of(phrase[:-1])
        if is_second and place > start:
            return text_of(phrase)
    return ""


def _read_beginning(scene: Scene, tokens: Sequence[Token]) -> list[float]:
    """Read what comes before the first person: the style, the place, or where the person is."""
    piece = divide(tokens, last=True)
    for segment in piece.segments:
        words = [t for t in segment if t.word not in ("there", "we", "see") and t.word not in BE]
        while words and words[-1].word in STYLE_OF:
            words = words[:-1]
        while words and words[0].word in ARTICLES | {"the"}:
            words = words[1:]
        if words:
            scene.setting.append(text_of(words))
    return piece.sides


def _turn(
    scene: Scene, span: Span, previous: Span | None, tokens: Sequence[Token], count: int
) -> None:
    """Turn to the people of a span: new ones, or some who were named before."""
    mention = span.mention
    if span.kind == "all":
        scene.current = list(scene.persons)
        return
    if span.kind == "part":
        scene.part(span)
        return
    if span.kind == "again":
        if not scene.again(mention.noun):
            scene.doubt(f"it is not clear who '{mention.noun}' is")
        return
    if (
        previous
        and (previous.kind != "new" or previous.mention.noun in GENERIC)
        and _is_copula(tokens[previous.stop : mention.start], is_last=False)
    ):
        for person in scene.current:
            person.text, person.noun = mention.text, mention.noun
        return
    if mention.definite and tokens[mention.start].word == "the" and _meant(scene, span, tokens):
        return
    if scene.replace(span):
        return
    size = mention.size
    if mention.kind == "groups":
        size = 2 if mention.noun == "couple" else 0
    if size == 0:
        scene.unknown.append(len(scene.groups))
        size = max(1, count - len(scene.persons)) if count else 2
    scene.add(span, min(size, 99))


def _meant(scene: Scene, span: Span, tokens: Sequence[Token]) -> bool:
    """Turn to somebody who was named before, or to a member of the last group, by a noun."""
    noun, sides = span.mention.noun, without_sides(span.mention.text)[1]
    following = tokens[span.stop].word[1:] if span.stop < len(tokens) else ""
    if scene.again(noun, sides[0] if sides else SIDES.get(following)):
        return True
    sized = [group for group in scene.groups if len(group) > 1]
    if sized and any(not person.described for person in sized[-1]):
        if sized[-1][0].noun == noun or noun in GENERIC:
            text = span.mention.text.rsplit(" ", 1)[0] if " " in span.mention.text else ""
            scene.part(span._replace(mention=span.mention._replace(text=text)))
            for person in scene.current:
                if person.noun != noun:
                    person.text, person.noun = noun, noun
            return True
    return False


def _is_copula(tokens: Sequence[Token], *, is_last: bool) -> bool:
    words = [token.word for token in tokens]
    is_linked = any(word in BE for word in words)
    return not is_last and is_linked and all(word in BE or word[0] == "@" for word in words)


def _follow_list(scene: Scene, span: Span, piece: Piece, tokens: Sequence[Token]) -> None:
    """Notice that the members of a group are listed next, as behind a colon."""
    is_group = span.kind == "new" and len(scene.current) > 1
    if is_group and (":" in (piece.joiner, *[token.word for token in tokens[-2:]])):
        scene.listed = scene.current[0].group
    elif is_group and span.mention.noun in GENERIC and piece.joiner in (",", "."):
        scene.listed = scene.current[0].group


def _check(scene: Scene, count: int) -> None:
    """Note what makes the split doubtful."""
    if scene.listed is not None and not all(p.described for p in scene.groups[scene.listed]):
        scene.doubt("the numbers of people disagree")
    for group in scene.groups:
        couple = [person for person in group if person.text.split()[-1] in ("man", "woman")]
        if len(group) == 2 == len({person.text for person in couple}):
            if not all(person.described for person in group):
                scene.doubt("it does not say who the couple are")
    if scene.unknown and not (count and len(scene.unknown) == 1):
        scene.doubt("it does not say how many people there are")
    elif count and len(scene.persons) != count:
        scene.doubt(f"it has {len(scene.persons)} people, but {count} are expected")


def _ordered(scene: Scene) -> list[Person]:
    """Order the people from left to right, as far as the sentence says."""
    persons = sorted(scene.persons, key=lambda person: person.side or 0.0)
    for moved, relation in scene.relations:
        order = [person for person in persons if person not in moved]
        after = scene.persons.index(moved[-1]) + 1
        neighbors = [person for person in scene.persons[after:] if person in order]
        if not neighbors:
            continue
        place = order.index(neighbors[0])
        persons = [*order[:place], *moved, *order[place:]]
        if relation in ("rightof", "between"):
            persons = [*order[: place + 1], *moved, *order[place + 1 :]]
    return persons


def prompt_lines(split: Split) -> list[str]:
    """Write one line per person that the setting can follow: with a comma at its end where the
    setting does not begin with a preposition, such as 'oil painting'.
    """
    word = split.setting.split()[0].lower() if split.setting else ""
    comma = "," if word and word not in PREPOSITIONS else ""
    return [person + comma for person in split.persons]


def _joined_setting(phrases: list[str]) -> str:
    """Join what belongs to all, phrases with a preposition first."""
    placed = [p for p in phrases if p.split()[0].lower() in PREPOSITIONS]
    plain = [phrase for phrase in phrases if phrase not in placed]
    return ", ".join(filter(None, (" ".join(placed), *plain)))
