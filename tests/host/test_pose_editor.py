"""The Pose Editor node from its saved state, as it runs without a browser."""

import json
from pathlib import Path

import folder_paths
import pytest
import torch
from vitruvian.models import pose, pose_editor
from vitruvian.nodes.instances import VitruvianInstancesFromText
from vitruvian.nodes.pose_drawing import VitruvianDrawPersonMasks
from vitruvian.nodes.pose_editor import VitruvianPoseEditor

LIBRARY = {frame["name"]: frame for frame in json.loads(pose_editor.POSE_LIBRARY.read_text())}


def moved(name, dx, prompt):
    """A person of the library, dx to the right on the 1000 pixels of its canvas."""
    (person,) = LIBRARY[name]["people"]
    parts = {}
    for key, points in person.items():
        values = torch.tensor(points, dtype=torch.float32).reshape(-1, 3)
        parts[key] = (values + torch.tensor([dx, 0, 0])).flatten().tolist()
    return {"prompt": prompt, **parts}


# edited in another order than they stand in
STATE = json.dumps(
    {
        "canvas_width": 1000,
        "canvas_height": 1000,
        "people": [moved("waving", 250, "a woman in red"), moved("standing", -250, "")],
    }
)


def run(people=STATE, width=160, height=160, **optional):
    with torch.inference_mode():
        return VitruvianPoseEditor.execute(
            canvas_width=width, canvas_height=height, people=people, **optional
        )


def test_the_saved_state_is_enough():
    frames, image, masks, prompts = run().result
    assert prompts == "a person\na woman in red"
    (frame,) = frames
    people = pose.read_frame(frame)
    assert (people.width, people.height) == (160, 160)
    assert pose.left_to_right(people) == [0, 1]
    assert image.shape == (1, 160, 160, 3) and 0 < image.mean() < 1
    assert masks.shape == (2, 160, 160)
    centers = [mask.sum(0).argmax().item() for mask in masks]
    assert centers[0] < 80 < centers[1]


def test_masks_are_those_of_person_masks():
    frames, _, masks, _ = run(height=128).result
    with torch.inference_mode():
        defaults = {"mask_dilation": 0.03, "mask_feather": 0.01, "min_confidence": 0.3}
        person_masks, _ = VitruvianDrawPersonMasks.execute(
            pose=frames, output_width=0, output_height=0, **defaults
        ).result
    torch.testing.assert_close(masks, person_masks)


def test_prompts_reach_the_right_person():
    class Clip:
        tokenize = staticmethod(str)

        @staticmethod
        def encode_from_tokens_scheduled(text):
            return [[text, {}]]

    *_, prompts = run().result
    (chain,) = VitruvianInstancesFromText.execute(
        clip=Clip(), prompts=prompts, setting="in a park", quality=""
    ).result
    prompts_by_person = {instance.person: instance.conditioning[0][0] for instance in chain}
    assert prompts_by_person == {1: "a person in a park", 2: "a woman in red in a park"}


def test_the_one_in_front_is_drawn_last():
    state = json.loads(STATE)
    state["people"] = [moved("arms out", 0, "a"), moved("arms raised", 0, "b")]
    _, first_order, *_ = run(json.dumps(state)).result
    state["people"].reverse()
    _, second_order, *_ = run(json.dumps(state)).result
    assert not torch.equal(first_order, second_order)


def test_an_unused_editor_runs():
    _, image, masks, prompts = run("", 96, 64).result
    assert image.shape == (1, 64, 96, 3) and masks.shape == (1, 64, 96) and prompts == "a person"
    assert run("", 96, 64).ui == {"vitruvian_canvas": [96, 64]}


def test_a_connected_pose():
    sitting = [LIBRARY["sitting"]]
    frames, _, _, prompts = run("", pose=sitting).result
    assert prompts == "a person"
    assert frames[0]["people"][0]["pose_keypoints_2d"][1] == pytest.approx(
        LIBRARY["sitting"]["people"][0]["pose_keypoints_2d"][1] * 0.16
    )
    edited = run(pose=sitting)
    assert edited.result[3] == "a person\na woman in red", "what was edited stays"
    (offered,) = edited.ui["vitruvian_pose"]
    assert offered["canvas_width"] == 1000 and len(offered["people"]) == 1


def test_a_background_goes_to_the_widget_alone():
    photo = torch.rand(1, 40, 60, 3)
    with_photo = run(background_image=photo)
    torch.testing.assert_close(with_photo.result[1], run().result[1])
    (file,) = with_photo.ui["vitruvian_background"]
    assert file["type"] == "temp"
    assert (Path(folder_paths.get_temp_directory()) / file["subfolder"] / file["filename"]).exists()


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"people": "{"}, "Pose Editor: the input 'people' is not JSON"),
        ({"people": '{"people": 3}'}, "Pose Editor: the input 'people' can not be used"),
        ({"pose": "text"}, "Pose Editor: the input 'pose' can not be used: a pose is a list"),
        ({"background_image": torch.rand(2, 9, 9, 3)}, "'background_image' has 2 images"),
        (
            {"people": "", "pose": [{"canvas_width": 9, "canvas_height": 9, "people": []}]},
            "Pose Editor: there are no people: add a person in the editor, or connect",
        ),
    ],
)
def test_bad_inputs_are_refused(inputs, message):
    with pytest.raises(ValueError, match=message):
        run(**inputs)
