"""Answers of language models are read in every form, and plain lines are left as they stand."""

import json
from pathlib import Path

import pytest
from vitruvian.models.answers import read_answer

ROOT = Path(__file__).parents[2]
PEOPLE = ["a knight in silver armor, sword: raised", "a nun <lora:nun_v2:0.8> at 5:30", "1boy, hat"]
JSON = json.dumps(PEOPLE)


def lines(before, after=""):
    """Write the people in lines; `before` each of them may say the {number}, {letter}, {place}."""
    rows = zip("123", "ABC", ("Left", "Middle", "Right"), PEOPLE, strict=True)
    return "\n".join(
        before.format(number=number, letter=letter, place=place) + person + after
        for number, letter, place, person in rows
    )


def objects(key, **more):
    return [{**more, key: person} for person in PEOPLE]


FORMS = {
    "plain": lines(""),
    "indented": lines("   "),
    "blank lines": lines("", "\n"),
    "numbers": lines("{number}. "),
    "brackets": lines("{number}) "),
    "two brackets": lines("({number}) "),
    "letters": lines("{letter}) "),
    "dashes": lines("- "),
    "stars": lines("* "),
    "points": lines("• "),
    "persons": lines("Person {number}: "),
    "bold persons": lines("**Person {number} ({place}):** "),
    "numbered bold persons": lines("{number}. **Person {letter}:** "),
    "bullets and places": lines("- **{place}**: "),
    "headings": lines("### Person {number}\n", "\n"),
    "places": lines("{place}: "),
    "places with dashes": lines("{place} person - "),
    "quoted": lines('"', '"'),
    "numbered and quoted": lines('{number}. "', '",'),
    "one line": "; ".join(PEOPLE),
    "one numbered line": lines("{number}. ").replace("\n", " "),
    "list": JSON,
    "indented list": json.dumps(PEOPLE, indent=2),
    "trailing comma": JSON.replace("]", ",]"),
    "python": str(PEOPLE),
    "objects": json.dumps(objects("prompt")),
    "objects with more": json.dumps(objects("description", id=1, position="left", name="Anna")),
    "object with a list": json.dumps({"people": PEOPLE, "setting": "a park"}),
    "object with objects": json.dumps({"characters": objects("text", sex="unknown")}, indent=1),
    "object by name": json.dumps(dict(zip(("knight", "nun", "boy"), PEOPLE, strict=True))),
    "json lines": "\n".join(map(json.dumps, objects("prompt"))),
    "table": "| No | Person |\n|---:|---|\n" + lines("| {number} | ", " |"),
    "tags": lines("<person>", "</person>"),
}
SURROUNDINGS = {
    "alone": "{}",
    "introduced": "Sure! Here are the three people, leftmost first:\n\n{}",
    "with a remark": "{}\n\nLet me know if you would like to change anything: I can help!",
    "fenced": "Here you go:\n```\n{}\n```\nI hope this helps.",
    "fenced as json": "```json\n{}\n```",
    "fence left open": "```text\n{}",
    "thought": '<think>\n1. a knight\n2. ["a nun"]\n```\n</think>\n\n{}',
    "thought without a beginning": "So: a knight, a nun.\n- a boy\n</think>\n{}",
    "with tokens": "<|start|>assistant\n{}<|im_end|>",
    "goes on with another turn": "{}\n\nUser: Thanks!\nAssistant: You are welcome.",
    "tagged": "<answer>\n{}\n</answer>",
    "headed": "Sentence: three people\n\nAnswer:\n{}",
}


@pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_is_read_in_every_surrounding(form, surrounding):
    assert read_answer(surrounding.replace("{}", form), 3) == PEOPLE


@pytest.mark.parametrize("form", [form for name, form in FORMS.items() if "one" not in name])
def test_the_number_of_people_need_not_be_known(form):
    assert read_answer(form) == PEOPLE


PLAIN = """
a man
person
the left hand of a man - close up
2 swords in his hands, a samurai
1girl, red hair, (smiling:1.2), [hat:cap:0.5], ((best quality))
{red|blue} dress, __color__ hat
[old|young] woman
a man, style: photo, year: 1920
1920: a man
1.5 m tall child
a t-shirt that says "hello"
"hello" on a t-shirt, a man
a girl <lora:style-v2:0.8> <lora:other:1:0.5>
a king; a crown / a throne | a sword
left-handed woman, # of hats: 2
okay, a tired man
a first person view of a man
A tall man.
"""


@pytest.mark.parametrize("count", [0, len(PLAIN.split("\n")) - 2])
def test_plain_lines_stay_as_they_are(count):
    texts = [line for line in PLAIN.split("\n") if line]
    assert read_answer("\n\n ".join(texts) + " \n", count) == texts
    for text in texts:
        assert read_answer(f"  {text}\n") == [text]


def test_the_prompts_of_the_examples_stay_as_they_are():
    texts = [
        node["inputs"]["prompts"]
        for file in (ROOT / "workflows" / "api").glob("*.json")
        for node in json.loads(file.read_text()).values()
        if isinstance(node["inputs"].get("prompts"), str)
    ]
    assert len(texts) > 5
    for text in texts:
        assert read_answer(text) == [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize(
    "answer",
    [
        "1. **Knight**\n   - silver armor\n   - sword\n2. **Nun:**\n   * red habit\n\nDone.",
        "- Knight\n  - silver armor\n  - sword\n- Nun\n  - red habit",
    ],
)
def test_details_below_a_person_belong_to_them(answer):
    assert read_answer(answer, 2) == ["Knight, silver armor, sword", "Nun, red habit"]


def test_a_person_may_go_on_in_the_next_line():
    answer = "1. a knight in silver armor\n   with a sword\n2. a nun\nin a red habit"
    assert read_answer(answer) == ["a knight in silver armor with a sword", "a nun in a red habit"]


@pytest.mark.parametrize(
    "answer, persons",
    [
        ("Knight: a man in armor\nNun: a woman in red", ["a man in armor", "a woman in red"]),
        ("Knight: knight in armor\nNun: nun in red", ["knight in armor", "nun in red"]),
        ("man: red coat\nwoman: blue coat", ["man: red coat", "woman: blue coat"]),
        ("photo: a man\nphoto: a woman", ["photo: a man", "photo: a woman"]),
    ],
)
def test_a_name_is_left_out_only_where_the_text_says_who_it_is(answer, persons):
    assert read_answer(answer) == persons


@pytest.mark.parametrize(
    "answer, count, words",
    [
        ("", 0, "an empty text"),
        (" \n ", 2, "an empty text"),
        ("(none)", 0, r'no person .* "\(none\)"'),
        ("a knight", 2, r"2 people are expected \('count'\), but 1 could be read .*\"a knight\""),
        ("1. a\n2. b\n3. c", 1, 'expected .*, but 3 could be read .*1: "a"; 2: "b"; 3: "c"'),
        ("I'm sorry, but I can't help with that.", 0, "did not answer: \"I'm sorry"),
        ("<think>\nTwo people, so", 2, 'stopped thinking: "<think> Two'),
        ('["a knight", "a nu', 2, 'breaks off: "\\["a knight", "a nu"'),
        ('{"people": []}', 0, 'no person .* "{"people": '),
        ("a man " * 50, 2, r'"a man a man .{40,60}\.\.\."'),
    ],
)
def test_what_can_not_be_read_is_quoted(answer, count, words):
    with pytest.raises(ValueError, match=words):
        read_answer(answer, count)
