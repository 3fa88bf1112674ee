"""Every UI-format workflow opens in the front end, complete, and says what its API twin says."""

import json
from pathlib import Path

import pytest

SHIPPED = Path(__file__).parents[2] / "workflows"
NAMES = sorted(path.stem for path in SHIPPED.glob("*.json"))

OPEN = """async (workflow) => {
    await app.loadGraphData(workflow)
    const known = LiteGraph.registered_node_types
    const missing = app.graph._nodes.map(n => n.type).filter(type => !(type in known))
    return {missing, prompt: (await app.graphToPrompt()).output}
}"""


def test_every_workflow_has_its_twin():
    assert NAMES == sorted(path.stem for path in (SHIPPED / "api").glob("*.json"))
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_opens_in_the_front_end(page, api, name, tmp_path):
    opened = page.evaluate(OPEN, json.loads((SHIPPED / f"{name}.json").read_text()))
    page.wait_for_timeout(1000)
    page.screenshot(path=tmp_path / f"{name}.png")
    assert opened["missing"] == []
    assert plain(opened["prompt"]) == plain(api(name))


def plain(prompt):
    """Only what the server acts on: classes and inputs."""
    return {id: (node["class_type"], node["inputs"]) for id, node in prompt.items()}
