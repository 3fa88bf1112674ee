"""Test that every variant of a pose file is read right, or refused in one sentence.

The files lie in tests/poses, what is right for each in tests/pose_variants.json.
"""

import json

import numpy as np
import pytest
import torch
from vitruvian.lab.benchmarks import pose_variants
from vitruvian.models import pose

VARIANTS = pose_variants.expectations()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_read_right_or_refused(name):
    assert pose_variants.judge(name, VARIANTS[name]) == ""


@pytest.mark.parametrize("name", [name for name in VARIANTS if "refused" in VARIANTS[name]])
def test_a_refusal_is_one_line(name):
    with pytest.raises(ValueError) as error:
        pose.load_poses(pose_variants.TESTS / "poses" / name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_every_file_is_judged():
    assert {path.name for path in (pose_variants.TESTS / "poses").iterdir()} == set(VARIANTS)
    count = pose_variants.count_variants()
    assert not count.wrong and len(count.read) >= 10 and len(count.refused) >= 10


def content(name):
    return json.loads((pose_variants.TESTS / "poses" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [n for n in VARIANTS if "frames" in VARIANTS[n]])
def test_what_is_written_reads_back(name):
    frames = pose.load_poses(pose_variants.TESTS / "poses" / name)
    again = pose.read_poses(json.loads(json.dumps([pose.write_frame(people) for people in frames])))
    for people, repeated in zip(frames, again, strict=True):
        assert people[5:] == repeated[5:]
        for part, expected in zip(repeated[:5], people[:5], strict=True):
            torch.testing.assert_close(part, expected)


@pytest.mark.parametrize(
    "convert", [np.asarray, torch.as_tensor, lambda rows: list(np.array(rows))]
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_arrays_on_a_wire_read_like_lists(convert, kind):
    frame = content("nested_points.json")
    expected = pose.read_frame(frame).body
    frame["people"][0]["pose_keypoints_2d"] = convert(
        np.array(frame["people"][0]["pose_keypoints_2d"], kind)
    )
    frame["canvas_width"] = np.int64(512)
    torch.testing.assert_close(pose.read_frame(frame).body, expected)
    frame["people"][0]["pose_keypoints_2d"] = [kind(v) for v in expected.flatten().tolist()]
    torch.testing.assert_close(pose.read_frame(frame).body, expected)


def test_a_value_is_not_changed_by_reading():
    for name in ("coco_annotations.json", "older_editor_two_people.json", "body25_video.json"):
        value = content(name)
        pose.read_poses(value)
        assert value == content(name)


def test_a_taken_canvas_is_said(caplog):
    pose.read_poses(content("openpose_binary_body25.json"))
    assert "extent of its points, 294 x 461" in caplog.text
    caplog.clear()
    pose.read_poses(content("single_frame_object.json"))
    assert not caplog.text


def test_a_point_outside_that_looks_like_a_swapped_canvas_reads_back():
    people = pose.read_frame(content("points_outside_meant.json"))
    frame = pose.write_frame(people)
    assert frame["points_outside"] is True
    assert "points_outside" not in pose.write_frame(pose.no_people(8, 8))
    del frame["points_outside"]
    with pytest.raises(ValueError, match="swapped"):
        pose.read_frame(frame)


def test_people_far_outside_read_back():
    people = pose.read_frame(content("single_frame_object.json"))
    far = people._replace(body=people.body + torch.tensor([5000.0, 0.0, 0.0]))
    again = pose.read_frame(pose.write_frame(far))
    torch.testing.assert_close(again.body, far.body)


def test_a_huge_file_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "huge.json"
    path.write_bytes(b"[" + b" " * 2_000_000)
    monkeypatch.setattr(pose, "LARGEST_FILE", 1_000_000)
    with pytest.raises(ValueError, match="huge.json: the file has 2 MB"):
        pose.load_poses(path)


def test_people_without_a_certain_point_are_left_out():
    people = pose.read_frame(content("heatmap_scores.json"))
    assert pose.count(people) == 2 and people.body[..., 2].max() == 1
    assert pose.count(pose.keep_confident(people)) == 1
    assert pose.left_to_right(people, pose.MIN_CONFIDENCE) == [0]
