"""What an artist reads when the input is wrong, and that nothing is written then."""

import json

import pytest
from vitruvian.batch.vitruvian_batch.trouble import Trouble


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def draw(pose, **changes):
    inputs = {
        "output_width": 0,
        "output_height": 0,
        "include_hands": True,
        "include_face": True,
        "line_width": 0,
        "min_confidence": 0.3,
    }
    return node("VitruvianDrawPose", pose=pose, **{**inputs, **changes})


def detect(image):
    inputs = {"max_people": 1, "min_confidence": 0.3, "include_hands": True}
    return node("VitruvianDetectPose", image=image, if_nobody="stop with an error", **inputs)


def save(image):
    return node("SaveImage", images=image, filename_prefix="bad")


def load_and_draw(file):
    return {
        "1": node("VitruvianLoadPose", pose_name=file),
        "2": draw(["1", 0]),
        "3": node("VitruvianSavePose", pose=["1", 0], filename_prefix="bad"),
        "4": save(["2", 0]),
    }


def files(server):
    return {path for path in (server.base / "output").rglob("*") if path.is_file()}


def message(server, workflow):
    """What the server says to a workflow that must fail and write nothing."""
    before = files(server)
    with pytest.raises(Trouble) as trouble:
        server.wait(server.queue(workflow))
    assert files(server) == before
    return str(trouble.value)


POINTS = [100.0, 100.0, 1.0] * 18
BAD_POSES = {
    "malformed": '{"people": [',
    "empty file": "",
    "empty list": "[]",
    "no people": json.dumps({"canvas_width": 64, "canvas_height": 64, "people": []}),
    "not a pose": '"text"',
    "points cut off": json.dumps(
        {"canvas_width": 64, "canvas_height": 64, "people": [{"pose_keypoints_2d": POINTS[:-1]}]}
    ),
}


@pytest.mark.parametrize("name", BAD_POSES)
def test_a_bad_pose_file(server, name):
    file = f"{name}.json"
    (server.base / "input" / file).write_text(BAD_POSES[name])
    said = message(server, load_and_draw(file))
    assert said.startswith("VitruvianLoadPose (node 1): Load Pose: ")
    assert "Traceback" not in said


def test_a_missing_pose_file(server):
    said = message(server, load_and_draw("no_such_pose.json"))
    assert "Load Pose: " in said
    assert "no_such_pose.json" in said


def test_an_image_with_nobody(server):
    workflow = {
        "1": node("LoadImage", image="coffee.png"),
        "2": detect(["1", 0]),
        "3": draw(["2", 0]),
        "4": save(["3", 0]),
    }
    said = message(server, workflow)
    assert said.startswith("VitruvianDetectPose (node 2): Detect Pose: nobody was found")
    assert "if_nobody" in said


def test_no_point_is_confident_enough(server):
    people = [{"pose_keypoints_2d": [20.0, 20.0, 0.2] * 18}]
    pose = {"canvas_width": 64, "canvas_height": 64, "people": people}
    (server.base / "input" / "unsure.json").write_text(json.dumps(pose))
    workflow = load_and_draw("unsure.json")
    del workflow["3"]  # saving it is right
    assert "min_confidence" in message(server, workflow)


@pytest.mark.parametrize("widget", ["ckpt_name", "control_net_name"])
def test_a_missing_model(server, api, widget):
    workflow = api("photo_to_person")
    for loader in workflow.values():
        if widget in loader["inputs"]:
            loader["inputs"][widget] = "no_such_model.safetensors"
    assert "no_such_model.safetensors" in message(server, workflow)


def test_a_file_that_is_no_checkpoint(server, api):
    folder = server.base / "models" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "broken.safetensors").write_text("this is not a checkpoint")
    workflow = api("text_to_person")
    for loader in workflow.values():
        if "ckpt_name" in loader["inputs"]:
            loader["inputs"]["ckpt_name"] = "broken.safetensors"
    assert message(server, workflow).startswith("CheckpointLoaderSimple")


def test_the_server_still_works_afterwards_at_odd_sizes(server):
    workflow = {
        "1": node("LoadImage", image="astronaut.png"),
        "2": detect(["1", 0]),
        "3": draw(["2", 0], output_width=191, output_height=97),
        "4": save(["3", 0]),
    }
    outputs = server.wait(server.queue(workflow))
    (image,) = outputs["4"]["images"]
    assert (server.base / "output" / image["filename"]).stat().st_size > 0
