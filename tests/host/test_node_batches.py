"""Batches in every node: item k alone gives what it gives among others, one item serves all, and
other counts are refused by name.
"""

import pytest
import torch
from vitruvian.tests.host.batches import APART, CLASSES, EMPTY, LATENT, NODES, joined

BY_THE_IMAGE = {
    "IMAGE",
    "MASK",
    "LATENT",
    "POSE_KEYPOINT",
    "BOUNDING_BOX",
    "BOUNDING_BOX,BOUNDING_BOXES",
    "VITRUVIAN_SEMANTIC_MAP",
}
PAIRED = sorted(node for node, case in NODES.items() if len(case.items) > 1 and not case.apart)
SINGLE = sorted(node for node, case in NODES.items() if len([*case.items.values()][0]) > 1)


@pytest.fixture(autouse=True)
def inference(mini_weights):
    with torch.inference_mode():
        yield


ALONE = {  # what a node does not pair with its other inputs
    "VitruvianPoseEditor": {"pose"},
    "VitruvianAddInstance": {"reference"},  # the network pairs it with the image
}


def inputs_of(node_id):
    """The names of a node's inputs that hold something for each image."""
    inputs = CLASSES[node_id].define_schema().inputs
    return {entry.id for entry in inputs if entry.io_type in BY_THE_IMAGE}


def test_every_node_with_items_of_a_batch_is_walked():
    with_items = {node for node in CLASSES if inputs_of(node)}
    assert with_items == NODES.keys() | APART.keys()
    for node_id, case in NODES.items():
        assert inputs_of(node_id) - set(case.items) <= ALONE.get(node_id, set())


def run(case, counts):
    return case.run({name: joined(case.items[name][:n]) for name, n in counts.items()})


def run_each(case, counts):
    """The same one by one, put together: the expectation."""
    results = []
    for k in range(max(counts.values())):
        first = {name: k if count > 1 else 0 for name, count in counts.items()}
        values = {name: joined(case.items[name][n : n + 1], n) for name, n in first.items()}
        results.append(case.run(values))
    return [joined_outputs(column) for column in zip(*results, strict=True)]


def joined_outputs(column):
    if isinstance(column[0], torch.Tensor):
        return torch.cat(column)
    if isinstance(column[0], dict):
        return {"samples": torch.cat([latent["samples"] for latent in column])}
    return [item for items in column for item in items]


def assert_same(outputs, expected):
    assert len(outputs) == len(expected)
    for output, wanted in zip(outputs, expected, strict=True):
        if isinstance(output, dict):
            output, wanted = output["samples"], wanted["samples"]
        if isinstance(output, torch.Tensor):
            torch.testing.assert_close(output, wanted, atol=1e-3, rtol=1e-3)
        else:
            assert output == wanted


def is_paired(case, counts):
    longest = max(counts.values())
    return all(counts[name] == longest for name in case.leads) and (
        len({counts[name] for name in case.alike}) < 2
    )


def one_against_three(case):
    """Counts in which some inputs have one item and the others three."""
    for name in case.items:
        yield {other: 3 if other == name else 1 for other in case.items}
        yield {other: 1 if other == name else 3 for other in case.items}


@pytest.mark.parametrize("node_id", SINGLE)
def test_item_k_goes_with_item_k(node_id):
    case = NODES[node_id]
    counts = dict.fromkeys(case.items, 3)
    expected = run_each(case, counts)
    assert_same(run(case, counts), expected)


@pytest.mark.parametrize("node_id", PAIRED)
def test_one_item_serves_all(node_id):
    case = NODES[node_id]
    for counts in one_against_three(case):
        if is_paired(case, counts):
            assert_same(run(case, counts), run_each(case, counts))
        else:
            with pytest.raises(ValueError) as refusal:
                run(case, counts)
            assert_names_an_input(refusal, case)


@pytest.mark.parametrize("node_id", PAIRED)
@pytest.mark.parametrize("few", [2, 4])
def test_other_counts_are_refused_by_name(node_id, few):
    case = NODES[node_id]
    for name in case.items:
        counts = {other: few if other == name else 3 for other in case.items}
        case = case._replace(items={n: [*items, items[0]] for n, items in case.items.items()})
        with pytest.raises(ValueError) as refusal:
            run(case, counts)
        assert_names_an_input(refusal, case)


def assert_names_an_input(refusal, case):
    inputs = [name for name in case.items if name != LATENT or len(case.items) == 1]
    assert any(name in str(refusal.value) for name in inputs), str(refusal.value)


ONE_FOR_ALL = [
    (node_id, entry.id)
    for node_id, node in CLASSES.items()
    if node.define_schema().is_input_list
    for entry in node.define_schema().inputs
    if entry.id not in {*NODES[node_id].items, "positive"}
]


@pytest.mark.parametrize("node_id, name", ONE_FOR_ALL)
def test_a_list_for_what_serves_all_images_is_refused(node_id, name):
    """Of a node with lists of images: a list of models, of steps or of seeds."""
    inputs = CLASSES[node_id].define_schema().inputs
    values = {entry.id: [None] for entry in inputs}
    with pytest.raises(ValueError, match=f"the input '{name}' has 2 values"):
        CLASSES[node_id].execute(**{**values, name: [None, None]})


BY_POSE = {
    node: name
    for node, case in NODES.items()
    for name in case.items
    if name in ("pose", "hand_poses", "pose_1")
}


PER_PERSON = {  # outputs with one item for each person or hand, not for each frame
    "VitruvianDrawPersonMasks": {0},
    "VitruvianDrawHandMasks": {0},
    "VitruvianCutHands": {0, 1},
}
BLANK = {"VitruvianDrawPose": {0}, "VitruvianDrawPersonMasks": {1}, "VitruvianDrawHandMasks": {1}}


@pytest.mark.parametrize("node_id", BY_POSE)
def test_an_empty_frame_among_others_is_an_empty_frame(node_id):
    case, name = NODES[node_id], BY_POSE[node_id]
    first, _, last = case.items[name]
    with_empty = case._replace(items={**case.items, name: [first, EMPTY, last]})
    counts = dict.fromkeys(case.items, 3)
    for number, (output, wanted) in enumerate(
        zip(run(with_empty, counts), run(case, counts), strict=True)
    ):
        assert_same([output[:1], output[-1:]], [wanted[:1], wanted[-1:]])
        per_person = number in PER_PERSON.get(node_id, ())
        assert len(output) == len(wanted) - per_person
        if number in BLANK.get(node_id, ()):
            assert not output[1].any()


def test_one_empty_frame_alone_is_refused():
    for node_id, name in BY_POSE.items():
        if node_id != "VitruvianMergePeople":
            case = NODES[node_id]
            case = case._replace(items={**case.items, name: [EMPTY] * 3})
            with pytest.raises(ValueError, match=f"'{name}'"):
                run(case, dict.fromkeys(case.items, 1))
