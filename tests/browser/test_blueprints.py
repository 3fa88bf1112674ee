"""The blueprints in the front end: the search adds them, they say what their workflows say, open,
are saved with a workflow and run.
"""

import json

import pytest
from vitruvian.tests.blueprint_graphs import complete, inner_types, inside_out
from vitruvian.tests.browser.pose_editor_page import NOTHING, is_old
from vitruvian.tests.browser.test_first_image import AS_INSTALLED, COUNT, EMPTY, Artist
from vitruvian.tests.shipped import skip_older
from vitruvian.tools.blueprints import BLUEPRINTS

TITLES = sorted(BLUEPRINTS)
PROMPT = """async (workflow) => {
    await app.loadGraphData(workflow)
    return (await app.graphToPrompt()).output
}"""
SAVED_AND_OPENED = """async () => {
    const saved = JSON.parse(JSON.stringify(app.graph.serialize()))
    await app.loadGraphData(saved)
    return (await app.graphToPrompt()).output
}"""
INSIDE = """() => {
    const [node] = app.graph.nodes
    app.canvas.openSubgraph(node.subgraph, node)
    return app.canvas.graph.nodes.map(inner => inner.type)
}"""
PLACED = "() => app.graph.nodes.every(node => !node.flags.ghost)"


@pytest.fixture
def artist(page, said, renderer):
    if is_old(page):
        pytest.skip("this front end reads no blueprints from packs")
    page.evaluate(EMPTY, [NOTHING, AS_INSTALLED])
    page.wait_for_timeout(800)
    yield Artist(page)
    page.evaluate("() => app.canvas.setGraph(app.rootGraph)")


@pytest.mark.parametrize("title", ["Two People from Nothing", "Repair Hands", "Two People (Flux)"])
def test_the_search_adds_it_and_it_opens(artist, page, title, tmp_path):
    artist.opens_search(700, 500)
    artist.adds(f"{title} (Vitruvian)", (500, 120))
    assert page.evaluate(COUNT) == 1
    page.wait_for_function(PLACED)
    page.wait_for_timeout(800)
    page.screenshot(path=tmp_path / "added.png")
    inside = page.evaluate(INSIDE)
    page.wait_for_timeout(800)
    page.screenshot(path=tmp_path / "opened.png")
    assert {*inside} - {"MarkdownNote"} == inner_types(title)


@pytest.mark.parametrize("title", TITLES)
def test_it_says_what_its_workflow_says_also_when_it_was_saved(page, said, server, api, title):
    name = BLUEPRINTS[title].workflow
    skip_older(name, server.get("/object_info"))
    if is_old(page):
        pytest.skip(
            "this host offers no blueprints, and its front end mixes up two of their widgets"
        )
    expected = inside_out(api(name))
    assert inside_out(page.evaluate(PROMPT, complete(title))) == expected
    assert inside_out(page.evaluate(SAVED_AND_OPENED)) == expected


def test_a_widget_outside_is_the_one_inside(artist, page):
    page.evaluate(PROMPT, complete("Two People from Nothing"))
    prompt = page.evaluate("""async () => {
        const node = app.graph.nodes.find(one => one.subgraph)
        node.widgets.find(widget => widget.name === 'setting').value = 'on the moon'
        return (await app.graphToPrompt()).output
    }""")
    (compose,) = [n for n in prompt.values() if n["class_type"] == "VitruvianComposePeople"]
    assert compose["inputs"]["setting"] == "on the moon"


def test_one_from_the_search_runs(artist, page, server, mini_weights):
    artist.opens_search(700, 500)
    artist.adds("Two People from Nothing (Vitruvian)", (500, 120))
    page.evaluate("""() => {
        const [node] = app.graph.nodes
        node.subgraph.nodes.find(one => one.type === 'KSampler').widgets
            .find(widget => widget.name === 'steps').value = 2
        const save = LiteGraph.createNode('SaveImage')
        app.graph.add(save)
        node.connect(0, save, 0)
    }""")
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    outputs = server.wait(server.queue(json.loads(json.dumps(prompt))))
    assert [file for output in outputs.values() for file in output.get("images", ())]
