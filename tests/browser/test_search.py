"""What people type into the search for nodes brings the node they want among the first five."""

import contextlib

import pytest

FIRST = 5
WANTED = {
    "openpose": "Detect Pose",
    "dwpose": "Detect Pose",
    "mediapipe pose": "Detect Pose",
    "pose estimation": "Detect Pose",
    "pose from image": "Detect Pose",
    "keypoints": "Detect Pose",
    "face points": "Detect Pose",
    "skeleton": "Draw Pose",
    "stick figure": "Draw Pose",
    "pose": "Pose Editor",
    "pose editor": "Pose Editor",
    "openpose editor": "Pose Editor",
    "edit pose": "Pose Editor",
    "mannequin": "Pose Editor",
    "openpose json": "Load Pose",
    "pose library": "Load Pose",
    "export pose": "Save Pose",
    "person mask": "Draw Person Masks",
    "body mask": "Draw Person Masks",
    "silhouette": "Draw Person Masks",
    "select person": "Pick People",
    "combine poses": "Merge People",
    "regional prompt": "Compose Instances",
    "regional prompter": "Compose Instances",
    "attention couple": "Compose Instances",
    "latent couple": "Compose Instances",
    "two characters": "Compose Instances",
    "two people": "Two People (Z-Image) (Vitruvian)",
    "repair hands": "Repair Hands (Vitruvian)",
    "multiple characters": "Compose People",
    "multiple people": "Compose Instances",
    "concept bleeding": "Compose Instances",
    "prompt per person": "Add Instance",
    "person": "Add Instance",
    "character": "Add Instance",
    "group of people": "Instances from Text",
    "masked prompt": "Instances from Masks",
    "attention mask": "Instances from Masks",
    "gligen": "Instances from Boxes",
    "bbox prompt": "Instances from Boxes",
    "split prompt": "Describe People",
    "character lora": "Load Person LoRA",
    "regional lora": "Load Person LoRA",
    "two loras": "Load Person LoRA",
    "hand fix": "Cut Hands",
    "hands": "Cut Hands",
    "bad hands": "Cut Hands",
    "adetailer": "Cut Hands",
    "inpaint hands": "Cut Hands",
    "fingers": "Apply Hand Generator",
    "soft inpainting": "Apply Mask Expansion",
    "outpaint": "Apply Mask Expansion",
    "anatomy": "Apply Human Prior",
    "extra limbs": "Apply Human Prior",
    "attention map": "Show Human Attention",
    "depth map": "Split Structure",
    "normal map": "Convert Structure Images",
    "depth controlnet": "Apply Structure Refiner",
    "lighting": "Relight Image",
    "human parsing": "Semantic Map from Pose",
    "body parts": "Mask from Semantic Map",
    "outfit": "Apply Appearance",
    "clothes": "Apply Appearance",
    "virtual try-on": "Apply Appearance",
    "clothes from image": "Appearance from Image",
    "wardrobe": "Build Memory",
}
RESULTS = f"""() => [...document.querySelectorAll('[data-testid=result-item]')].slice(0, {FIRST})
    .map((item) => item.querySelector('span.truncate').textContent)"""


@pytest.fixture(scope="module")
def search(page, server):
    """The front end's own search, opened by a double click: a word -> names of the first nodes."""
    if not server.get("/object_info/VitruvianDetectPose")["VitruvianDetectPose"].get(
        "search_aliases"
    ):
        pytest.skip("this front end knows no aliases")
    field = opened(page)

    def find(words):
        field.fill("")
        page.keyboard.type(words)
        return settled(page)

    yield find
    page.keyboard.press("Escape")


def opened(page):
    """The field of the search; on a busy machine the canvas now and then misses a double click."""
    from playwright.sync_api import TimeoutError

    field = page.get_by_role("search").get_by_role("combobox").first
    page.evaluate("() => app.graph.clear()")
    for _ in range(4):
        page.locator("#graph-canvas").dblclick(position={"x": 900, "y": 500})
        with contextlib.suppress(TimeoutError):
            field.wait_for(timeout=5_000)
            return field
    pytest.fail("a double click on the canvas opens no search")


def settled(page):
    """The first results once two looks in a row see the same."""
    before = None
    for _ in range(20):
        page.wait_for_timeout(60)
        with contextlib.suppress(Exception):
            names = page.evaluate(RESULTS)
            if names == before:
                return names
            before = names
    pytest.fail("the results do not come to rest")


def test_there_are_enough_words():
    assert len(WANTED) >= 60


@pytest.mark.parametrize("words", WANTED)
def test_is_among_the_first(search, words):
    assert WANTED[words] in search(words)


def test_nonsense_finds_nothing(search):
    """So what the others see is what their words have found."""
    assert search("qqxjzv") == []
