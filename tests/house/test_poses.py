"""The pose editor's library is what its table of angles says."""

from vitruvian.tools import poses


def test_the_library_is_made_from_its_table():
    text = poses.LIBRARY.read_text(encoding="utf-8")
    assert text == poses.text(), "make it anew: python tools/poses.py"


def test_a_limb_that_points_at_the_viewer_is_short():
    pointing = poses.frame({"name": "", "group": "", "ra": [90, 0, 90, 0], "la": [90, 90, 90, 90]})
    points = pointing["people"][0]["pose_keypoints_2d"]
    right, left = ([points[3 * i : 3 * i + 2] for i in arm] for arm in ((2, 4), (5, 7)))
    assert abs(right[0][0] - right[1][0]) < 20 < 200 < left[1][0] - left[0][0]


def test_who_looks_away_shows_no_face():
    away = poses.frame({"name": "", "group": "", "turn": 180})["people"][0]["pose_keypoints_2d"]
    visibility = dict(enumerate(away[2::3]))
    assert [point for point, is_seen in visibility.items() if not is_seen] == [0, 14, 15]
    assert away[3 * 2] > away[3 * 5], "the right shoulder is on the right of the image"
