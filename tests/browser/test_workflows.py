"""Every UI-format workflow opens in the front end, complete, and says what its API twin says."""

import json
from pathlib import Path

import pytest
from vitruvian.tests.shipped import skip_older

SHIPPED = Path(__file__).parents[2] / "workflows"
NAMES = sorted(path.stem for path in SHIPPED.glob("*.json"))

OPEN = """async (workflow) => {
    await app.loadGraphData(workflow)
    const known = LiteGraph.registered_node_types
    const missing = app.graph._nodes.map(n => n.type).filter(type => !(type in known))
    const links = app.graph._nodes.flatMap(n => n.inputs ?? []).filter(i => i.link != null).length
    return {missing, links, prompt: (await app.graphToPrompt()).output}
}"""


@pytest.fixture(scope="module")
def info(server):
    return server.get("/object_info")


def test_every_workflow_has_its_twin():
    assert NAMES == sorted(path.stem for path in (SHIPPED / "api").glob("*.json"))
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_opens_in_the_front_end(page, api, info, name, tmp_path):
    skip_older(name, info)
    saved = json.loads((SHIPPED / f"{name}.json").read_text())
    opened = page.evaluate(OPEN, saved)
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / f"{name}.png")
    assert opened["missing"] == []
    assert opened["links"] == len(saved["links"])
    assert plain(opened["prompt"]) == plain(api(name))


def plain(prompt):
    """Only what the server acts on: classes and inputs."""
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}
