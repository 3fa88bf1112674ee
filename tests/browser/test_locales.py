"""The front end shows the nodes in the artist's own language."""

import json
import re
from pathlib import Path

import pytest
from vitruvian.tests.browser.pose_editor_page import NOTHING, OPEN, settle

LOCALES = Path(__file__).parents[2] / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
NODE = "VitruvianComposeInstances"

SHOWN = """(type) => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    app.graph.add(node)
    node.pos = [300, 150]
    return {
        title: node.title,
        category: node.constructor.category,
        inputs: Object.fromEntries(node.inputs.map(i => [i.name, i.label ?? i.localized_name])),
        widgets: Object.fromEntries(node.widgets.map(w => [w.name, w.label])),
        outputs: node.outputs.map(o => o.localized_name),
    }
}"""


@pytest.fixture(params=LANGUAGES)
def language(request, server, page):
    """The front end, loaded anew in one language; in English for whoever comes after."""
    server.post("/settings", {"Comfy.Locale": request.param})
    page.goto(server.url)
    page.wait_for_function("window.app?.graph && window.LiteGraph", timeout=60_000)
    yield request.param
    server.post("/settings", {"Comfy.Locale": "en"})


def test_a_node_speaks_the_language(server, page, language, tmp_path):
    ours = json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))
    categories = json.loads((LOCALES / language / "main.json").read_text(encoding="utf-8"))
    served = server.get("/i18n")[language]
    assert ours.items() <= served["nodeDefs"].items()

    page.wait_for_function(f"'{NODE}' in LiteGraph.registered_node_types", timeout=30_000)
    node_words = page.evaluate(SHOWN, NODE)
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / f"{language}.png")
    names = {key: words["name"] for key, words in ours[NODE]["inputs"].items()}
    assert node_words["title"] == ours[NODE]["display_name"]
    assert node_words["category"] == f"Vitruvian/{categories['nodeCategories']['compose']}"
    assert node_words["inputs"] == names
    assert node_words["widgets"].items() <= names.items()
    assert node_words["outputs"] == [words["name"] for words in ours[NODE]["outputs"].values()]


FOREIGN = re.compile(r"[\u3041-\u30ff\u4e00-\u9fff]")
EDITOR_WORDS = """() => [...document.querySelectorAll('.vitruvian-pose, .vitruvian-pose *')]
    .flatMap((one) => [
        one.title, one.placeholder, one.ariaLabel,
        ...[...one.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data),
    ]).filter((text) => text && /[a-z]{2}/.test(text))"""
KEY = re.compile(r"^[\W\d]*(?:(?:[A-Z0-9]|Ctrl|Shift|Tab|Page|Up|Down|Delete|Esc)[\W\d]*)+$")


def test_the_editor_speaks_the_language(page, language, tmp_path):
    """No English is left on tools, poses, prompts and in the help, whatever is chosen."""
    page.evaluate(OPEN, [NOTHING, False])
    settle(page)
    editor = page.locator(".vitruvian-pose")
    editor.locator("[data-tool='add']").click()
    page.wait_for_timeout(300)
    editor.locator(".library input[type='search']").fill("no pose has this name")
    texts = page.evaluate(EDITOR_WORDS)
    editor.locator(".library input[type='search']").fill("")
    page.screenshot(path=tmp_path / f"{language}_poses.png")
    texts += page.evaluate(EDITOR_WORDS)
    page.keyboard.press("Escape")
    for limb in ("leftFoot", "rightHand"):
        editor.locator(f"[data-limb='{limb}']").click()
        texts += page.evaluate(EDITOR_WORDS)
    for key in ("1", *"j" * 18, "h"):
        page.keyboard.press(key)
        page.wait_for_timeout(30)
        texts.append(editor.locator(".status").inner_text())
    page.screenshot(path=tmp_path / f"{language}_editor.png")
    english = {text for text in texts if not FOREIGN.search(text) and not KEY.match(text)}
    assert english == set()
