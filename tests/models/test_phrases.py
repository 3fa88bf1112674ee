"""Garment phrases: two hundred of them and their parts, and how sentences are split."""

import itertools

import pytest
from vitruvian.models import phrases, semantic_map
from vitruvian.models.phrases import Phrase, part_of, split_phrases

TABLE = {
    "top": [
        "a red shirt", "T-shirt", "t shirt", "tshirt", "white TEE", "two T-Shirts", "silk blouse",
        "an oversized sweater", "chunky knit pullover", "grey hoodie", "crop top", "Tank-Top",
        "polo shirt", "button down", "button-down flannel shirt", "dress shirt", "black turtleneck",
        "sweater vest", "tie-dye t-shirt", "striped sweatshirts", "lace camisole",
        "a leather corset", "denim shirt", "Hawaiian shirts", "cap sleeve blouse",
        "football jersey", "linen tunic", "off-the-shoulder top", "bikini top", "chainmail",
    ],
    "outer": [
        "denim jacket", "jean jacket", "trench coat", "long camel coat", "raincoats", "a puffer",
        "leather jackets", "navy blazer", "wool cardigan", "parka", "bomber jacket", "tuxedo",
        "grey suit", "waistcoat", "red cape", "hooded cloak", "white lab coat", "shirt jacket",
        "ponchos", "duffel coat", "fur coat", "belted coat", "plate armour", "bathrobe",
        "denim jacket with fur collar", "dinner jacket", "quilted vest",
    ],
    "skirt": [
        "pleated skirt", "mini-skirt", "miniskirts", "a leather mini skirt", "plaid kilt", "tutu",
        "denim skirt", "flowing maxi skirt", "skort", "tulle petticoat",
    ],
    "dress": [
        "summer dress", "shirt dress", "sweater dress", "t-shirt dress", "red dresses", "sundress",
        "evening gown", "ball gown", "wedding dress", "wrap-dress", "embroidered qipao", "sari",
        "turtleneck dress", "nightgown", "denim dress", "belted shirt dress",
    ],
    "pants": [
        "blue jeans", "washed denim trousers", "pants", "khaki shorts", "chinos", "sweatpants",
        "cargo pants", "suit pants", "leather trousers", "track pants", "corduroys", "culottes",
        "dress pants", "bermuda shorts", "swim trunks", "bell-bottoms", "boxer shorts", "joggers",
    ],
    "leggings": [
        "black leggings", "sheer tights", "pantyhose", "yoga pants", "cycling shorts",
        "leg warmers", "legging", "sporty bike-shorts",
    ],
    "headwear": [
        "straw hat", "a baseball cap", "beanies", "top hat", "sun hat", "sunhat", "red beret",
        "golden crown", "motorcycle helmet", "silk headscarf", "hijab", "head band", "Headband",
        "flower crown", "cowboy hats", "bridal veil", "hair clip", "panama hat", "bandana",
        "straw boater",
    ],
    "eyeglass": [
        "round glasses", "sunglasses", "ski goggles", "eye glasses", "horn-rimmed spectacles",
        "monocle", "black eyepatch",
    ],
    "neckwear": [
        "wool scarf", "scarves", "knitted scarfs", "paisley shawl", "feather boa", "pashmina",
        "neckerchief",
    ],
    "belt": ["brown leather belt", "belts", "silk sash", "chain belt", "studded waistband"],
    "footwear": [
        "red sneakers", "sock boots", "ankle boots", "knee-high boots", "over the knee boots",
        "dress shoes", "high heels", "flip flops", "flip-flops", "FlipFlops", "leather sandals",
        "running shoes", "loafers", "slip on shoes", "ballet flats", "white trainers", "slippers",
        "rain boots", "clogs", "stiletto heels", "hiking boots", "wedge shoe",
    ],
    "bag": [
        "leather handbag", "tote bag", "backpack", "fanny pack", "belt bag", "clutches", "purse",
        "messenger bags", "briefcase",
    ],
    "hair": [
        "long blond hair", "red-haired woman", "ponytail", "messy bun", "braids", "curly hair",
        "short bob cut", "afro", "dreadlocks", "pixie cut", "black bangs",
    ],
    "face": ["full beard", "freckles", "red lipstick", "blue eyes", "a moustache", "pale face"],
    "skin": ["tanned skin", "tattoos", "bare legs", "dark complexion", "bare feet"],
    "ring": ["gold ring", "wedding rings", "signet ring"],
    "wrist wearing": ["silver bracelet", "watches", "smart watch", "wrist watch", "bangles"],
    "socks": ["white socks", "ankle socks", "striped stockings", "fishnets", "knee-highs"],
    "gloves": ["leather gloves", "mittens", "boxing gloves", "iron gauntlets"],
    "necklace": ["pearl necklace", "choker", "pendants", "gold chain", "pearls", "lockets"],
    "rompers": ["denim overalls", "jumpsuit", "jump suits", "swim suit", "leotards", "rompers",
                "bathing suit", "one-piece"],
    "earrings": ["hoop earrings", "pearl earring", "ear rings", "nose ring"],
    "tie": ["striped tie", "bow tie", "bowties", "neck-ties", "cravat"],
    None: ["a man", "in a park", "oak tree", "masterpiece, top quality", "on a hill top",
           "ring light", "boxing ring", "dress code", "a stop sign", "glass of water",
           "short story", "", "!?", "top-down view", "coat of arms",
           "\u0442\u0430\u043d\u0446\u043e\u0432\u0449\u0438\u0446\u0430"],  # dancer, in Russian
}  # fmt: skip
CASES = [(text, name) for name, texts in TABLE.items() for text in texts]


def phrases_and_parts(prompt, **options):
    """The text of each phrase and the name of its part."""
    names = {None: None} | dict(enumerate(semantic_map.CLASSES))
    return [(phrase.text, names[phrase.part]) for phrase in split_phrases(prompt, **options)]


@pytest.mark.parametrize(("text", "name"), CASES)
def test_two_hundred_phrases(text, name):
    assert part_of(text) == (None if name is None else semantic_map.CLASSES.index(name))
    assert {part for _, part in phrases_and_parts(text)} == ({name} if name else set())


def test_there_are_two_hundred_and_of_every_part():
    assert len(CASES) >= 200 and set(TABLE) == {*semantic_map.CLASSES[1:], None}


def test_the_list_is_long_and_names_each_word_once():
    lines = phrases.WORDS.read_text("utf-8").splitlines()
    listed = [word for line in lines if line[:1] not in ("#", "[") for word in line.split()]
    sections = {line.strip("[]") for line in lines if line.startswith("[")}
    assert sections == {*semantic_map.CLASSES[1:], "none", "looks", "trims"}
    assert len(phrases.listed_words()) > 400
    keys = [word.replace("-", "") for word in listed]
    assert sorted({key for key in keys if keys.count(key) > 1}) == []
    assert all(word == word.casefold() for word in listed)
    assert max(len(word.split("-")) for word in listed) == phrases.LONGEST


@pytest.mark.parametrize("word", ["shirt", "t-shirt", "ankle-boot", "scarf", "over-the-knee-boot"])
def test_hyphens_spaces_and_none_are_the_same(word):
    parts = word.split("-")
    for joints in itertools.product("- ", repeat=len(parts) - 1):
        text = "".join(a + b for a, b in zip(parts, [*joints, ""], strict=True))
        for form in (text, text.upper(), text.title(), f"a red {text}"):
            assert part_of(form) == part_of(word) is not None
    assert part_of(word.replace("-", "")) == part_of(word)


SENTENCES = {
    "A man wearing a black linen shirt and washed denim trousers, red sneakers, long blond hair, "
    "in a park": ["black linen shirt", "washed denim trousers", "red sneakers", "long blond hair"],
    "A man wearing a black T-shirt and denim pants": ["black T-shirt", "denim pants"],
    "black and white striped shirt": ["black and white striped shirt"],
    "black & white striped shirt & tie": ["black & white striped shirt", "tie"],
    "black and white striped shirt and red and blue shorts": [
        "black and white striped shirt", "red and blue shorts"],
    "a leather and denim jacket": ["leather and denim jacket"],
    "a tree and a blue shirt": ["blue shirt"],
    "jeans and white shirt": ["jeans", "white shirt"],
    "a white shirt, a black tie; grey trousers\nbrown shoes": [
        "white shirt", "black tie", "grey trousers", "brown shoes"],
    "a coat over a white dress": ["coat", "white dress"],
    "white shirt under a green vest with brass buttons": [
        "white shirt", "green vest with brass buttons"],
    "denim jacket with a fur collar": ["denim jacket with fur collar"],
    "a dress with lace and ribbons": ["dress with lace and ribbons"],
    "a dress with a dog": ["dress"],
    "a woman with red hair in a green coat": ["red hair", "green coat"],
    "brown hair in a ponytail": ["brown hair in ponytail"],
    "shirt with red stripes and blue jeans": ["shirt with red stripes", "blue jeans"],
    "dress in red and boots in black": ["dress in red", "boots in black"],
    "dress with a black and white belt": ["dress", "black and white belt"],
    "boots with high heels": ["boots with high heels"],
    "a hat made of straw": ["hat made of straw"],
    "a pair of red sneakers": ["red sneakers"],
    "shirt tucked into jeans": ["shirt", "jeans"],
    "a scarf around her neck": ["scarf"],
    "red sneakers standing in a park": ["red sneakers"],
    "she has short hair. He wears his old hat": ["short hair", "old hat"],
    "photo: a woman in a T-Shirt": ["T-Shirt"],
    "red_dress, blue_hat": ["red dress", "blue hat"],
    "a woman without glasses, no hat, a red coat": ["red coat"],
    "a man": [], "": [], " ,;\n": [], "and and with in": [], "(": [], "))((": [],
}  # fmt: skip


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES.items())
def test_sentences_are_split(sentence, expected):
    assert [text for text, _ in phrases_and_parts(sentence)] == expected


def test_phrases_without_a_part_are_returned_on_request():
    sentence = "A man in a red hat, no shoes, in a park"
    assert phrases_and_parts(sentence) == [("red hat", "headwear")]
    assert phrases_and_parts(sentence, unknown=True) == [
        ("man", None),
        ("red hat", "headwear"),
        ("no shoes", None),
        ("park", None),
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("(red sneakers:1.3)", [("red sneakers", 1.3)]),
        ("(red sneakers)", [("red sneakers", 1.1)]),
        ("((red sneakers))", [("red sneakers", 1.21)]),
        ("((hat):1.5)", [("hat", 1.65)]),
        ("((hat:0.5):1.5)", [("hat", 0.5)]),
        ("(hat: .5 )", [("hat", 0.5)]),
        ("a (red:1.4) hat", [("red hat", 1.2)]),
        (
            "(red hat, blue shoes:1.2) and jeans",
            [("red hat", 1.2), ("blue shoes", 1.2), ("jeans", 1)],
        ),
        ("(shirt:1.2)(pants:1.4)", [("shirt pants", 1.3)]),
        (r"shirt \(blue\), hat", [("shirt (blue)", 1), ("hat", 1)]),
        (r"(shirt \(blue\):1.3)", [("shirt (blue)", 1.3)]),
        ("(headwear: odd thing:1.3)", [("odd thing", 1.3)]),
        ("(hat", [("(hat", 1)]),
        ("(hat:big)", [("big", 1.1)]),
    ],
)
def test_strengths(prompt, expected):
    assert [(phrase.text, phrase.strength) for phrase in split_phrases(prompt)] == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("headwear: something odd", [("something odd", "headwear")]),
        ("hat = straw boater", [("straw boater", "headwear")]),
        ("the hats: a thing with wings and a coat", [("thing with wings and a coat", "headwear")]),
        ("[7] a thing, jeans", [("thing", "headwear"), ("jeans", "pants")]),
        ("[0] brick wall", [("brick wall", "background")]),
        ("wrist_wearing: rope", [("rope", "wrist wearing")]),
        ("T-Shirt=chrome", [("chrome", "top")]),
        (
            "top: black and white stripes; skirt: leaves",
            [("black and white stripes", "top"), ("leaves", "skirt")],
        ),
        ("shoes: ", []),
        ("note: a red hat", [("red hat", "headwear")]),
        (
            "a hat with red flowers: blue shoes",
            [("hat with red flowers", "headwear"), ("blue shoes", "footwear")],
        ),
    ],
)
def test_a_part_may_be_named(prompt, expected):
    assert phrases_and_parts(prompt) == expected


def test_a_number_that_no_part_has_is_refused():
    with pytest.raises(ValueError, match=r"no part \[24\].*\[7\] headwear"):
        split_phrases("[24] something")


def test_phrases_have_a_strength_of_one():
    assert split_phrases("a red hat") == [Phrase("red hat", semantic_map.HEADWEAR, 1.0)]
