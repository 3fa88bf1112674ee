"""Images and masks of every form at every node that takes one: read as what they are, or refused
by the name of the node and the input.
"""

import pytest
import torch
from vitruvian.tests.host.batches import CLASSES, NODES, joined
from vitruvian.tests.host.test_node_batches import assert_same

IMAGE, MASK = "IMAGE", "MASK"
NAN, INFINITY = float("nan"), float("inf")


def with_value(values, value):
    """A copy in which the last number is another."""
    copy = values.clone()
    copy.view(-1)[-1] = value
    return copy


def with_channels(image, count):
    return image[..., :1].repeat(1, 1, 1, count)


# name -> what comes in, and what that is as [1, H, W, 3] in 0..1
READ_IMAGES = {
    "gray": lambda x: (x[..., :1], with_channels(x, 3)),
    "gray without a batch": lambda x: (x[0, ..., :1], with_channels(x, 3)),
    "transparent": lambda x: (torch.cat((x, x[..., :1] / 2), -1), x),
    "without a batch": lambda x: (x[0], x),
    "half": lambda x: (x.half(), x.half().float()),
    "bfloat16": lambda x: (x.bfloat16(), x.bfloat16().float()),
    "double": lambda x: (x.double(), x),
    "8 bits": lambda x: ((255 * x).byte(), (255 * x).byte().float() / 255),
    "16 bits": lambda x: (
        (65535 * x).int().to(torch.uint16),
        (65535 * x).int().float() / 65535,
    ),
    "overshooting": lambda x: (1.4 * x - 0.2, (1.4 * x - 0.2).clamp(0, 1)),
    "in another order": lambda x: (x.movedim(-1, 1).contiguous().movedim(1, -1), x),
}
REFUSED_IMAGES = {
    "two channels": lambda x: x[..., :2],
    "five channels": lambda x: with_channels(x, 5),
    "channels first": lambda x: x.movedim(-1, 1),
    "two dimensions": lambda x: x[0, ..., 0],
    "five dimensions": lambda x: x[None],
    "not a number": lambda x: with_value(x, NAN),
    "infinite": lambda x: with_value(x, INFINITY),
    "up to 65535": lambda x: 65535 * x,
    "from -1": lambda x: with_value(2 * x - 1, -1.0),
    "whole numbers": lambda x: (255 * x).int(),
    "empty": lambda x: x[:0],
    "no tensor": lambda x: [[0.0]],
}
# the same of [1, H, W]
READ_MASKS = {
    "one channel first": lambda x: (x[:, None], x),
    "one channel last": lambda x: (x[..., None], x),
    "without a batch": lambda x: (x[0], x),
    "half": lambda x: (x.half(), x.half().float()),
    "bool": lambda x: (x > 0.5, (x > 0.5).float()),
    "8 bits": lambda x: ((255 * x).byte(), (255 * x).byte().float() / 255),
    "16 bits": lambda x: (
        (65535 * x).int().to(torch.uint16),
        (65535 * x).int().float() / 65535,
    ),
    "overshooting": lambda x: (1.4 * x - 0.2, (1.4 * x - 0.2).clamp(0, 1)),
}
REFUSED_MASKS = {
    "an image": lambda x: x[0, ..., None].repeat(1, 1, 3),
    "images": lambda x: x[..., None].repeat(1, 1, 1, 3),
    "five dimensions": lambda x: x[None, None],
    "not a number": lambda x: with_value(x, NAN),
    "infinite": lambda x: with_value(x, -INFINITY),
    "up to 255": lambda x: with_value(x, 255.0),
    "whole numbers": lambda x: (255 * x).int(),
    "empty": lambda x: x[:0],
    "no tensor": lambda x: "mask",
}
READ = {IMAGE: READ_IMAGES, MASK: READ_MASKS}
REFUSED = {IMAGE: REFUSED_IMAGES, MASK: REFUSED_MASKS}
INPUTS = [
    (node_id, entry.id, entry.io_type)
    for node_id, node in CLASSES.items()
    for entry in node.define_schema().inputs
    if entry.io_type in (IMAGE, MASK)
]


@pytest.fixture(autouse=True)
def inference(mini_weights):
    with torch.inference_mode():
        yield


def values_of(node_id):
    return {name: joined(items[:1]) for name, items in NODES[node_id].items.items()}


def test_there_are_inputs_to_walk():
    assert len(INPUTS) > 25


@pytest.mark.parametrize("node_id, name, kind", INPUTS)
def test_every_usual_form_is_read(node_id, name, kind):
    values, run = values_of(node_id), NODES[node_id].run
    for form, make in READ[kind].items():
        unusual, usual = make(values[name])
        outputs = run({**values, name: unusual})
        try:
            assert_same(outputs, run({**values, name: usual}))
        except AssertionError as error:
            raise AssertionError(f"{form}: {error}") from None


@pytest.mark.parametrize("node_id, name, kind", INPUTS)
def test_other_forms_are_refused_by_name(node_id, name, kind):
    values, run = values_of(node_id), NODES[node_id].run
    node = CLASSES[node_id].define_schema().display_name
    for form, make in REFUSED[kind].items():
        with pytest.raises(ValueError) as refusal:
            run({**values, name: make(values[name])})
            pytest.fail(f"{form} is taken")
        text = str(refusal.value)
        assert text.startswith(f"{node}: the input '{name}' can not be used: it"), (form, text)
