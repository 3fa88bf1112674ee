"""Every node that takes something by the image, with three different items for each such input.

    NODES[node id] -> Case(items, run)

    items   input -> three items: frames, images [H, W, 3], masks [H, W], maps [H, W], latents
            [C, h, w] or lists of boxes; `joined(items)` makes the value of the input from some
    run     (values of the inputs) -> what came out, as lists or tensors with the batch in front.
            A node that patches is sampled with the LATENT in `latent`, which then is one of its
            items
    leads   inputs of which a single item never serves all items of the others
    alike   inputs that need equally many items among themselves
    apart   whether each input has an output of its own, so that the counts may differ

A new node with such an input fails `tests/host/test_node_batches.py` until it is listed here.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest.mock import patch

import folder_paths
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from vitruvian.host import human_prior_training as prior_training
from vitruvian.host import part_encoder, part_instances
from vitruvian.host import structure_data as data_files
from vitruvian.host.registration import register
from vitruvian.lab.neighbors import strengths as methods
from vitruvian.lab.neighbors.strengths import CELLS, PIXELS, HalvingVae
from vitruvian.models import detect, pose
from vitruvian.models.compose import Instance
from vitruvian.models.semantic_map import PALETTE
from vitruvian.nodes import MODULES
from vitruvian.nodes import instances as instance_nodes
from vitruvian.nodes.semantic_map import BACKGROUND

import nodes as core

register()
LATENT = "latent"
CLASSES = {node.define_schema().node_id: node for module in MODULES for node in module.NODES}
Value = Any
Outputs = Sequence[Any]


class Case(NamedTuple):
    """How one node is run with items of a batch."""

    items: Mapping[str, Sequence[Any]]
    run: Callable[[Mapping[str, Value]], Outputs]
    leads: Sequence[str] = ()
    alike: Sequence[str] = ()
    apart: bool = False


def joined(items: Sequence[Any], first: int = 0) -> Value:
    """Make the value of an input from some of its items; `first` is the number of the first."""
    if isinstance(items[0], Tensor) and items[0].dim() == 3 and items[0].shape[0] in (4, 12):
        numbers = list(range(first, first + len(items)))  # the host draws the noise of these
        return {"samples": torch.stack(list(items)), "batch_index": numbers}
    return torch.stack(list(items)) if isinstance(items[0], Tensor) else list(items)


def execute(node_id: str, **inputs: Any) -> Any:
    """Run a node with the defaults of its schema and these inputs; all of its NodeOutput."""
    node = CLASSES[node_id]
    schema = node.define_schema()
    values = {}
    for entry in schema.inputs:
        if entry.id in inputs:
            values[entry.id] = inputs.pop(entry.id)
        elif not entry.optional:
            default = getattr(entry, "default", None)
            values[entry.id] = entry.options[0] if default is None else default
    assert not inputs, f"{node_id} has no input {inputs}"
    if schema.is_input_list:
        values = {name: [value] for name, value in values.items()}
    return node.execute(**values)


# items


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(seed: int) -> list[Tensor]:
    return [*torch.rand(3, PIXELS, PIXELS, 3, generator=generator(seed))]


def masks() -> list[Tensor]:
    areas = torch.zeros(3, PIXELS, PIXELS)
    areas[0, 10:30, 5:40], areas[1, 20:60, 20:44], areas[2, 30:50, 8:60] = 1, 1, 0.8
    return [*areas]


def maps() -> list[Tensor]:
    """Semantic maps, each with the same three parts and one of its own."""
    labels = torch.stack([torch.randint(3, (PIXELS, PIXELS), generator=generator(k))
                          for k in range(3)]).byte()  # fmt: skip
    for k in range(3):
        labels[k, :20, :20] = 10 + k
    return [*labels]


def latents(channels: int = 4, seed: int = 0) -> list[Tensor]:
    return [*torch.randn(3, channels, CELLS, CELLS, generator=generator(seed))]


def frames(shift: int = 0, *, hands: bool = True) -> list[dict[str, Any]]:
    """Frames with one person, each elsewhere, with a body and a right hand."""
    return [frame([person(14 + 9 * k + shift, hands=hands)]) for k in range(3)]


def frame(people: list[dict[str, Any]]) -> dict[str, Any]:
    return {"people": people, "canvas_width": PIXELS, "canvas_height": PIXELS}


EMPTY = frame([])


def person(x: float, *, hands: bool) -> dict[str, Any]:
    places = {
        pose.NOSE: (0, 6), pose.NECK: (0, 14), pose.R_SHOULDER: (-6, 14), pose.L_SHOULDER: (6, 14),
        pose.R_ELBOW: (-9, 24), pose.R_WRIST: (-9, 32), pose.R_HIP: (-4, 34), pose.L_HIP: (4, 34),
        pose.R_KNEE: (-4, 46), pose.R_ANKLE: (-4, 58), pose.L_KNEE: (4, 46), pose.L_ANKLE: (4, 58),
    }  # fmt: skip
    body = [0.0] * 54
    for joint, (right, down) in places.items():
        body[3 * joint : 3 * joint + 3] = [x + right, down, 1.0]
    hand = [(x - 9.0, 32.0)] + [(x - 17 + 4 * f, 36.0 + 3 * j) for f in range(5) for j in range(4)]
    points = {"hand_right_keypoints_2d": [v for place in hand for v in (*place, 1.0)]}
    return {"pose_keypoints_2d": body} | (points if hands else {})


def boxes() -> list[list[dict[str, Any]]]:
    """Boxes of Cut Hands: one in each frame."""
    size = {"width": 20, "height": 20, "canvas_width": PIXELS, "canvas_height": PIXELS}
    return [[{"x": 4 + 15 * k, "y": 10 * k, "angle": 0.3 * k, **size}] for k in range(3)]


# running


class Loaded:
    """What is loaded once."""

    @staticmethod
    @cache
    def parts() -> tuple[Any, Any, Any]:
        """MODEL, CLIP and VAE of the mini checkpoint."""
        return core.CheckpointLoaderSimple().load_checkpoint("vitruvian_mini.safetensors")[:3]

    @staticmethod
    @cache
    def prompts() -> tuple[Any, Any]:
        return methods.prompts(Loaded.parts()[1])

    @staticmethod
    @cache
    def control_net() -> Any:
        return core.ControlNetLoader().load_controlnet(methods.POSE_FILE)[0]

    refiner = staticmethod(cache(methods.random_refiner))
    structure = staticmethod(cache(methods.structure_model))


def outputs_of(node_id: str, *, only: Sequence[int] | None = None, **inputs: Any):
    """Make a `run` that gives the node's own outputs, or those of these numbers."""

    def run(values: Mapping[str, Value]) -> Outputs:
        result = execute(node_id, **inputs, **values).result
        return [output for k, output in enumerate(result) if only is None or k in only]

    return run


def sampled(patch_inputs: Callable[[Mapping[str, Value]], methods.Inputs]):
    """Make a `run` that samples what `patch_inputs` returns for the values but the latent."""

    def run(values: Mapping[str, Value]) -> Outputs:
        values = dict(values)
        latent = values.pop(LATENT)
        inputs = patch_inputs(values)._replace(latent=latent)
        return [methods.sample(inputs, steps=2)]

    return run


class Captured(Exception):
    """Carries what a node was about to work on."""


@contextmanager
def captured(owner: Any, name: str):
    """Stop at a function of a module, and collect its arguments."""
    calls: list[tuple] = []

    def stop(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        raise Captured

    with patch.object(owner, name, stop):
        try:
            yield calls
        except Captured:
            pass


def human_prior(values: Mapping[str, Value]) -> methods.Inputs:
    model, (positive, negative) = Loaded.parts()[0], Loaded.prompts()
    inputs = {"model": model, "human_prior": methods.random_prior(model), **values}
    (patched,) = execute("VitruvianApplyHumanPrior", **inputs).result
    return methods.Inputs(patched, positive, negative, {})


def appearance(values: Mapping[str, Value]) -> methods.Inputs:
    model, (positive, negative) = Loaded.parts()[0], Loaded.prompts()
    inputs = {"model": model, "appearance": methods.random_appearance(model), **values}
    (patched,) = execute("VitruvianApplyAppearance", parts=methods.parts(), **inputs).result
    return methods.Inputs(patched, positive, negative, {})


def hand_generator(values: Mapping[str, Value]) -> methods.Inputs:
    model, (positive, negative) = Loaded.parts()[0], Loaded.prompts()
    network = methods.random_hand_generator(model)
    inputs = {"model": model, "hand_generator": network, **values}
    (patched,) = execute("VitruvianApplyHandGenerator", **inputs).result
    return methods.Inputs(patched, positive, negative, {})


def predicted_hand_masks(values: Mapping[str, Value]) -> Outputs:
    model = Loaded.parts()[0]
    inputs = {"hand_generator": methods.random_hand_generator(model)}
    patched = hand_generator({"hand_poses": frames()[:1]}).model
    positive = Loaded.prompts()[0]
    node = "VitruvianPredictHandMasks"
    return execute(node, model=patched, positive=positive, **inputs, **values).result


def refiner(values: Mapping[str, Value]) -> methods.Inputs:
    model, (positive, negative) = Loaded.parts()[0], Loaded.prompts()
    prompts = {"positive": positive, "negative": negative}
    node = "VitruvianApplyStructureRefiner"
    conditionings = execute(node, **prompts, refiner=Loaded.refiner(), **values).result
    return methods.Inputs(model, *conditionings, {})


def structure_pose(values: Mapping[str, Value]) -> methods.Inputs:
    positive, negative = Loaded.prompts()
    prompts = {"positive": positive, "negative": negative, "vae": HalvingVae()}
    conditionings = execute("VitruvianApplyStructurePose", **prompts, **values).result
    return methods.Inputs(Loaded.structure(), *conditionings, {})


def composed(values: Mapping[str, Value]) -> methods.Inputs:
    model, (positive, negative) = Loaded.parts()[0], Loaded.prompts()
    inputs = {"model": model, "positive": positive, "negative": negative, **values}
    people = (Instance(positive, 1),)
    node = "VitruvianComposeInstances"
    outputs = execute(node, instances=people, control_net=Loaded.control_net(), **inputs).result
    return methods.Inputs(*outputs[:3], {})


def people_composed(values: Mapping[str, Value]) -> methods.Inputs:
    model, clip = Loaded.parts()[:2]
    inputs = {"model": model, "clip": clip, "prompts": "a man", **values}
    return methods.Inputs(*execute("VitruvianComposePeople", **inputs).result[:3], {})


def attention(values: Mapping[str, Value]) -> Outputs:
    inputs = {"model": Loaded.parts()[0], "positive": Loaded.prompts()[0], "percents": "0.5"}
    return execute("VitruvianShowHumanAttention", **inputs, words="man", **values).result


def training_levels(values: Mapping[str, Value]) -> Outputs:
    """The latents that Train Human Prior trains with, and the features of their pose images."""
    with captured(prior_training, "train") as calls:
        positive = Loaded.prompts()[0]
        execute("VitruvianTrainHumanPrior", model=None, positive=positive, **values)
    samples = calls[0][1]
    return [samples.latents, *samples.levels]


def saved_data(values: Mapping[str, Value]) -> Outputs:
    """The images and their maps that Save Structure Data writes."""
    with captured(data_files, "save") as calls:
        execute("VitruvianSaveStructureData", **values)
    _, batch, maps_by_name, *_ = calls[0]
    return [batch, *maps_by_name.values()]


def encoded_pairs(node_id: str, **inputs: Any):
    """Make a `run` that gives the images and the maps whose parts a node encodes."""

    def run(values: Mapping[str, Value]) -> Outputs:
        with captured(part_encoder, "encode_parts") as calls:
            execute(node_id, clip_vision=None, **inputs, **values)
        return [torch.stack(list(column)) for column in zip(*calls[0][1], strict=True)]

    return run


def part_masks(values: Mapping[str, Value]) -> Outputs:
    """The masks of the instances that Instances from Parts makes."""
    with patch.object(part_instances, "encode_part", lambda *args: [["text", {}]]):
        inputs = {"parts": methods.parts()[:1], "clip": None, "memory": None}
        (instances,) = execute("VitruvianInstancesFromParts", **inputs, **values).result
    return [instance.mask for instance in instances]


def instance_mask(values: Mapping[str, Value]) -> Outputs:
    (instances,) = execute("VitruvianAddInstance", conditioning=[["text", {}]], **values).result
    return [instance.mask for instance in instances]


def instance_areas(node_id: str, lines: Callable[[Mapping[str, Value]], int]):
    """Make a `run` that gives the masks of all instances of a node with a prompt per line.

    lines: how many lines the values of the inputs need.
    """

    def encoded(clip: Any, prompts: Sequence[str], *_: str) -> list[Instance]:
        return [Instance([["text", {}]], 0) for _ in prompts]

    def run(values: Mapping[str, Value]) -> Outputs:
        prompts = "somebody\n" * lines(values)
        with patch.object(instance_nodes, "_line_instances", encoded):
            (instances,) = execute(node_id, clip=None, prompts=prompts, **values).result
        return [torch.cat([instance.mask for instance in instances])]

    return run


def mask_count(values: Mapping[str, Value]) -> int:
    masks = values["masks"]
    return len(masks) if isinstance(masks, Tensor) and masks.dim() > 2 else 1


class BoxDetector:
    """Stands for a detector: a person at the first box, or where the image's mean says."""

    def detect(self, image: Tensor, *, boxes: Sequence[Any] = (), **_: Any) -> pose.People:
        x = float(boxes[0][0]) if boxes else float(image.double().mean() * 60)
        return pose.read_frame(frame([person(x, hands=False)]))


def detected(values: Mapping[str, Value]) -> Outputs:
    @contextmanager
    def open_detector(*args: Any, **kwargs: Any):
        yield BoxDetector()

    with patch.object(detect, "open_detector", open_detector):
        return execute("VitruvianDetectPose", **values).result[:1]


def background(values: Mapping[str, Value]) -> Outputs:
    """What the pose editor shows: the pose, and the photograph in a file."""
    output = execute("VitruvianPoseEditor", people="", canvas_width=64, canvas_height=64, **values)
    previews = []
    for file in output.ui.get("vitruvian_background", ()):
        path = f"{folder_paths.get_temp_directory()}/{file['subfolder']}/{file['filename']}"
        previews.append(torch.from_numpy(np.array(Image.open(path))))
    return [output.result[0], *previews]


COLORS = [PALETTE[labels.long()].float() / 255 for labels in maps()]
RGB_LATENTS = {name: latents(seed=k) for k, name in enumerate(
    ("image_latent", "depth_latent", "normal_latent"))}  # fmt: skip
STRUCTURE_IMAGES = {f"{name}_image": images(k) for k, name in enumerate(("depth", "normal"))}
HINTS = {f"{name}_image": images(k) for k, name in enumerate(("pose", "depth", "normal"))}
TRAINING_IMAGES = {
    name: images(k)
    for k, name in enumerate(("images", "depth_images", "normal_images", "pose_images"))
}
HAND_IMAGES = {"hand_images": images(4), "masks": masks()}
IMAGES = {"image": images(1), "placed_image": images(2), "mask": masks()}
ONE_INSTANCE = (Instance([["text", {}]], 1),)


def pose_case(node_id: str, **options: Any) -> Case:
    return Case({"pose": frames()}, outputs_of(node_id, **options))


def map_case(node_id: str, **options: Any) -> Case:
    return Case({"semantic_map": maps()}, outputs_of(node_id, **options))


NODES = {
    "VitruvianDetectPose": Case({"image": images(0), "bboxes": boxes()}, detected, ("image",)),
    "VitruvianDrawPose": pose_case("VitruvianDrawPose"),
    "VitruvianDrawPersonMasks": pose_case("VitruvianDrawPersonMasks"),
    "VitruvianPickPeople": pose_case("VitruvianPickPeople"),
    "VitruvianMergePeople": Case(
        {"pose_1": frames(), "pose_2": frames(4)}, outputs_of("VitruvianMergePeople")
    ),
    "VitruvianPoseEditor": Case({"background_image": images(0)[:1]}, background),
    "VitruvianAddInstance": Case({"mask": masks()}, instance_mask),
    "VitruvianInstancesFromMasks": Case(
        {"masks": masks()}, instance_areas("VitruvianInstancesFromMasks", mask_count)
    ),
    "VitruvianInstancesFromBoxes": Case(
        {"bboxes": boxes(), "image": images(0)},
        instance_areas("VitruvianInstancesFromBoxes", lambda values: 1),
    ),
    "VitruvianComposeInstances": Case(
        {"pose": frames(), LATENT: latents()}, sampled(composed), (LATENT,)
    ),
    "VitruvianComposePeople": Case(
        {"pose": frames(), LATENT: latents()}, sampled(people_composed), (LATENT,)
    ),
    "VitruvianPreviewInstances": pose_case(
        "VitruvianPreviewInstances", instances=ONE_INSTANCE, only=(0, 1)
    ),
    "VitruvianDrawHandMasks": pose_case("VitruvianDrawHandMasks", only=(0, 1)),
    "VitruvianCutHands": Case(
        {"pose": frames(), "image": images(0)},
        outputs_of("VitruvianCutHands", crop_size=64, only=(0, 1, 2)),
    ),
    "VitruvianPlaceHands": Case(
        {**HAND_IMAGES, "hand_bboxes": boxes(), "image": images(0)},
        outputs_of("VitruvianPlaceHands"),
        alike=("hand_images", "masks", "hand_bboxes"),
    ),
    "VitruvianPasteHands": Case(IMAGES, outputs_of("VitruvianPasteHands")),
    "VitruvianApplyHandGenerator": Case(
        {"hand_poses": frames(), LATENT: latents()}, sampled(hand_generator), (LATENT,)
    ),
    "VitruvianPredictHandMasks": Case({LATENT: latents()}, predicted_hand_masks),
    "VitruvianPreviewMaskExpansion": Case(
        {"mask": masks(), "image": images(0)}, outputs_of("VitruvianPreviewMaskExpansion")
    ),
    "VitruvianApplyHumanPrior": Case(
        {"mask": masks(), LATENT: latents()}, sampled(human_prior), (LATENT,)
    ),
    "VitruvianShowHumanAttention": Case({LATENT: latents(), "image": images(0)}, attention),
    "VitruvianTrainHumanPrior": Case(
        {"latents": latents(), "pose_images": images(0)},
        training_levels,
        alike=("latents", "pose_images"),
    ),
    "VitruvianApplyStructurePose": Case(
        {"pose_image": images(0), LATENT: latents(12)}, sampled(structure_pose), (LATENT,)
    ),
    "VitruvianSplitStructure": Case({LATENT: latents(12)}, outputs_of("VitruvianSplitStructure")),
    "VitruvianJoinStructure": Case(RGB_LATENTS, outputs_of("VitruvianJoinStructure")),
    "VitruvianConvertStructureImages": Case(
        STRUCTURE_IMAGES, outputs_of("VitruvianConvertStructureImages"), apart=True
    ),
    "VitruvianRelightImage": Case(
        {"image": images(3), "normal_image": images(1)}, outputs_of("VitruvianRelightImage")
    ),
    "VitruvianApplyStructureRefiner": Case(
        {**HINTS, LATENT: latents()}, sampled(refiner), (LATENT,)
    ),
    "VitruvianSaveStructureData": Case(TRAINING_IMAGES, saved_data, alike=(*TRAINING_IMAGES,)),
    "VitruvianSemanticMapFromColors": Case(
        {"image": COLORS}, outputs_of("VitruvianSemanticMapFromColors", if_unknown_color=BACKGROUND)
    ),
    "VitruvianAddPartToSemanticMap": Case(
        {"mask": masks(), "semantic_map": maps()}, outputs_of("VitruvianAddPartToSemanticMap")
    ),
    "VitruvianSemanticMapFromPose": Case(
        {"pose": frames(), "semantic_map": maps()}, outputs_of("VitruvianSemanticMapFromPose")
    ),
    "VitruvianShowSemanticMap": map_case("VitruvianShowSemanticMap"),
    "VitruvianMaskFromSemanticMap": map_case("VitruvianMaskFromSemanticMap"),
    "VitruvianBuildMemory": Case(
        {"images": images(0), "semantic_map": maps()},
        encoded_pairs("VitruvianBuildMemory"),
        ("images",),
    ),
    "VitruvianAppearanceFromImage": Case(
        {"image": images(0), "semantic_map": maps()},
        encoded_pairs("VitruvianAppearanceFromImage"),
        ("image",),
    ),
    "VitruvianApplyAppearance": Case(
        {"semantic_map": maps(), "mask": masks(), LATENT: latents()},
        sampled(appearance),
        (LATENT,),
    ),
    "VitruvianInstancesFromParts": Case({"semantic_map": maps()}, part_masks),
}  # fmt: skip
APART = {  # what these do with several items is no pairing
    "VitruvianSavePose": "the frames are written as they are",
    "VitruvianRetrieveAppearance": "the maps say together which parts there are",
    "VitruvianDescribePeople": "the people of one frame are put into words",
}
