"""The front end shows the nodes in the artist's own language."""

import json
from pathlib import Path

import pytest

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
    shown = page.evaluate(SHOWN, NODE)
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / f"{language}.png")
    names = {key: words["name"] for key, words in ours[NODE]["inputs"].items()}
    assert shown["title"] == ours[NODE]["display_name"]
    assert shown["category"] == f"Vitruvian/{categories['nodeCategories']['compose']}"
    assert shown["inputs"] == names
    assert shown["widgets"].items() <= names.items()
    assert shown["outputs"] == [words["name"] for words in ours[NODE]["outputs"].values()]
