"""Names of nodes, inputs and outputs follow the rules, and the check of changes sees each change.

The check of the running pack against the snapshot is tests/host/test_names.py.
"""

import ast
import copy
import re
from pathlib import Path

import pytest
from vitruvian.tests import schemas

NODES = schemas.read()
COMPOSE = "VitruvianComposeInstances"
ROOT = Path(__file__).parents[2]
QUOTED = re.compile(r"'([a-z][a-z0-9_]*)'")
# quoted in errors: keys of a pose's JSON, and of the Pose Editor's state
NO_INPUTS = {"prompt", "keypoints", "pose_keypoints_2d", "x", "y"}


@pytest.fixture
def changed():
    """A copy of the snapshot to change."""
    return copy.deepcopy(NODES)


def entry(nodes, name, node=COMPOSE):
    (match,) = [entry for entry in nodes[node]["inputs"] if entry["name"] == name]
    return match


def test_a_node_s_id_is_the_words_of_its_display_name():
    for name, node in NODES.items():
        words = node["display_name"].split()
        assert name == "Vitruvian" + "".join(word[0].upper() + word[1:] for word in words)


def test_names_are_lower_case_words():
    for name, node in NODES.items():
        for entry in (*node["inputs"], *node["outputs"]):
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", entry["name"]), (name, entry)


def test_an_output_s_id_differs_from_its_name_only_where_an_input_has_it():
    for name, node in NODES.items():
        inputs = {entry["name"] for entry in node["inputs"]}
        for output in node["outputs"]:
            suffix = "_out" if output["name"] in inputs else ""
            assert output["id"] in (output["name"] + suffix, output["name"] + "_out"), (
                name,
                output,
            )


def test_one_name_has_one_type_one_range_and_one_default():
    assert schemas.conflicts(NODES) == []


def error_texts(tree):
    """Yield the texts in raise statements, and those that a variable holds before it is raised."""
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Raise | ast.Assign):
            for node in ast.walk(statement):
                if isinstance(node, ast.JoinedStr):
                    parts = [getattr(part, "value", "") for part in node.values]
                    yield "".join(part if isinstance(part, str) else "{}" for part in parts)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def wrong_names(source, allowed):
    """List what an error text quotes like an input that no node has."""
    texts = [text for text in error_texts(ast.parse(source)) if " " in text]
    return sorted({name for text in texts for name in QUOTED.findall(text)} - allowed)


def test_errors_name_inputs_and_outputs_that_exist():
    names = {
        entry["name"] for node in NODES.values() for entry in (*node["inputs"], *node["outputs"])
    }
    files = [path for room in ("nodes", "host", "models") for path in (ROOT / room).rglob("*.py")]
    wrong = {
        str(path.relative_to(ROOT)): errors
        for path in files
        if (errors := wrong_names(path.read_text(encoding="utf-8"), names | NO_INPUTS))
    }
    assert wrong == {}


def test_an_error_with_an_old_name_is_reported():
    source = """
def check(size):
    problem = f"{size} is too large: lower 'room'"
    if size > 9:
        raise ValueError(f"{problem} or 'strength', or use {size} in 'file'.")
"""
    assert wrong_names(source, {"strength"}) == ["file", "room"]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("type", "INT", "the type of 'strength': "),
        ("default", 0.5, "the default of 'strength': "),
        ("max", 2.0, "the max of 'strength': "),
        ("step", 0.1, "the step of 'strength': "),
    ],
)
def test_a_name_with_two_meanings_is_reported(changed, key, value, message):
    entry(changed, "strength")[key] = value
    (conflict,) = schemas.conflicts(changed)
    assert conflict.startswith(message) and "in Compose Instances" in conflict


def test_an_output_of_another_type_than_the_input_is_reported(changed):
    changed["VitruvianDrawPose"]["outputs"][0]["name"] = "pose"
    (conflict,) = schemas.conflicts(changed)
    assert conflict.startswith("the type of 'pose'")


# what a change costs


def test_no_change_costs_nothing(changed):
    assert schemas.losses(NODES, changed) == []


@pytest.mark.parametrize(
    "name, key, value, loss",
    [
        ("strength", "default", 0.5, "another result (1.0 became 0.5) comes from the default of"),
        ("strength", "type", "INT", "saved workflows lose the value of (FLOAT became INT)"),
        ("pose", "type", "IMAGE", "lose the connection to (POSE_KEYPOINT became IMAGE)"),
        ("strength", "min", 0.1, "saved values are refused or rounded (min 0.0 became 0.1) in"),
        ("strength", "max", 2.0, "saved values are refused or rounded (max 10.0 became 2.0) in"),
        ("strength", "step", 0.1, "saved values are refused or rounded (step 0.01 became 0.1) in"),
        ("mode", "choices", ["exact", "couple"], "refused with the choice 'layers' in"),
        ("mode", "choices", ["layers", "exact", "couple"], "the menu has another order in"),
        ("mode", "choices", ["exact", "new", "layers", "couple"], "the menu has another order in"),
        ("strength", "optional", True, "read values in another order because of the now optional"),
    ],
)
def test_a_changed_input_is_a_loss(changed, name, key, value, loss):
    entry(changed, name)[key] = value
    (message,) = schemas.losses(NODES, changed)
    assert message.endswith(f"{loss} '{name}' of Compose Instances")


def test_an_input_that_becomes_required_is_a_loss(changed):
    entry(changed, "mask", "VitruvianAddInstance")["optional"] = False
    assert schemas.losses(NODES, changed) == [
        "saved workflows are refused without a value for 'mask' of Add Instance"
    ]


def test_a_removed_or_renamed_input_is_a_loss(changed):
    entry(changed, "dilation")["name"] = "reach"
    assert schemas.losses(NODES, changed)[0] == (
        "saved workflows lose the value of 'dilation' of Compose Instances"
    )
    changed[COMPOSE]["inputs"].remove(entry(changed, "pose"))
    assert "saved workflows lose the connection to 'pose' of Compose Instances" in schemas.losses(
        NODES, changed
    )


def test_another_order_of_inputs_is_a_loss(changed):
    inputs = changed[COMPOSE]["inputs"]
    first, second = (
        inputs.index(entry(changed, "harmony")),
        inputs.index(entry(changed, "dilation")),
    )
    inputs[first], inputs[second] = inputs[second], inputs[first]
    assert schemas.losses(NODES, changed) == [
        "saved workflows read the value of 'harmony' as 'dilation' of Compose Instances",
        "saved workflows read the value of 'dilation' as 'harmony' of Compose Instances",
    ]


NEW = {"name": "new", "optional": True, "type": "INT", "default": 0}


def test_an_input_in_the_middle_is_a_loss(changed):
    changed[COMPOSE]["inputs"].insert(3, NEW)
    assert schemas.losses(NODES, changed) == [
        "saved workflows read the values after 'new' of Compose Instances wrongly"
    ]


def test_a_new_required_input_is_a_loss(changed):
    changed[COMPOSE]["inputs"].append({**NEW, "optional": False})
    assert schemas.losses(NODES, changed) == [
        "saved workflows without the new 'new' of Compose Instances are refused: make it optional"
    ]


def test_a_changed_output_is_a_loss(changed):
    changed[COMPOSE]["outputs"].reverse()
    assert schemas.losses(NODES, changed) == [
        f"saved workflows lose the connections from output '{name}' of Compose Instances"
        for name in ("model", "positive", "negative", "person_masks")
    ]


def test_a_removed_or_renamed_node_is_a_loss(changed):
    changed["VitruvianComposeEverybody"] = changed.pop(COMPOSE)
    assert schemas.losses(NODES, changed) == [
        f"saved workflows with Compose Instances ({COMPOSE}) no longer open"
    ]
    changed[COMPOSE] = {**NODES[COMPOSE], "display_name": "Compose"}
    assert schemas.losses(NODES, changed) == [
        "artists no longer find Compose Instances, now Compose"
    ]


def test_additions_at_the_end_cost_nothing(changed):
    changed[COMPOSE]["inputs"].append(NEW)
    changed[COMPOSE]["outputs"].append({"id": "new_out", "name": "new", "type": "INT"})
    entry(changed, "mode")["choices"].append("new")
    changed["VitruvianNew"] = {"display_name": "New", "inputs": [], "outputs": []}
    assert schemas.losses(NODES, changed) == []


def test_the_snapshot_is_written_as_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(schemas, "SNAPSHOT", tmp_path / "schemas.json")
    schemas.write(NODES)
    assert schemas.read() == NODES
