"""What a node says in words is to be read on it, and is neither saved nor sent."""

import pytest

BUILD = """async (text) => {
    app.graph.clear()
    const add = (type) => {
        const n = LiteGraph.createNode(type)
        n.pos = [150 + 450 * app.graph._nodes.length, 150]
        app.graph.add(n)
        return n
    }
    const load = add("CheckpointLoaderSimple"), prompt = add("VitruvianEncodeHumanPrompt")
    const end = add("PreviewAny")
    const set = (node, name, value) => { node.widgets.find((w) => w.name === name).value = value }
    set(load, "ckpt_name", "vitruvian_mini.safetensors")
    set(prompt, "text", text)
    load.connect(1, prompt, prompt.findInputSlot("clip"))
    prompt.connect(1, end, 0)
    window.spoken = prompt
    const before = prompt.serialize().widgets_values
    await app.queuePrompt(0)
    return before
}"""
SAID = """() => window.spoken.widgets.find((w) => w.name === "shown text")?.value"""
KEPT = """async () => ({
    values: window.spoken.serialize().widgets_values,
    inputs: (await app.graphToPrompt()).output[window.spoken.id].inputs,
})"""


@pytest.fixture(params=[False, True], ids=["classic", "new renderer"])
def renderer(page, request):
    """The node's face in both renderers, where there are two."""
    known = page.evaluate("!!app.ui.settings.settingsLookup?.['Comfy.VueNodes.Enabled']")
    if request.param and not known:
        pytest.skip("this front end has one renderer")
    if known:
        name = "Comfy.VueNodes.Enabled"
        page.evaluate("([n, v]) => app.extensionManager.setting.set(n, v)", [name, request.param])
        yield "modern" if request.param else "classic"
        page.evaluate("(n) => app.extensionManager.setting.set(n, false)", name)
    else:
        yield "only"


def test_the_words_are_shown(page, mini_weights, renderer, tmp_path):
    before = page.evaluate(BUILD, f"a {renderer} woman dancing in a park")
    page.wait_for_function(SAID, timeout=60_000)
    page.wait_for_timeout(300)
    page.screenshot(path=tmp_path / "said.png")
    assert "dancing" in page.evaluate(SAID)
    kept = page.evaluate(KEPT)
    assert kept["values"] == before
    assert set(kept["inputs"]) == {"clip", "text", "add", "remove"}
