"""Test the search by many looks, with a network that sees scripted people."""

import numpy as np
import pytest
import torch
from vitruvian.models import pose
from vitruvian.models.detect import Box
from vitruvian.models.detectors import many_looks
from vitruvian.models.detectors.face_boxes import FaceBox, different_faces, person_box, shifted
from vitruvian.models.detectors.face_points import face_points
from vitruvian.models.detectors.mediapipe_landmarks import LandmarkDetector


def person(x, y, size=40.0):
    """A visible body [33, 3]: the nose at (x, y), the neck `size` below, seven sizes tall."""
    body = torch.ones(33, 3)
    body[:, 0], body[:, 1] = x, y
    body[11:, 1] = y + size
    body[11, 0], body[12, 0] = x + 0.8 * size, x - 0.8 * size
    for k, (left, right) in enumerate(((13, 14), (15, 16), (23, 24), (25, 26), (27, 28)), 2):
        body[[left, right], 1] = y + k * size
        body[left, 0], body[right, 0] = x + 0.5 * size, x - 0.5 * size
    return body


def face_of(body, score=0.9):
    """The box of a person's face, one size wide, around the nose."""
    (x, y), half = body[0, :2].tolist(), (body[11, 1] - body[0, 1]).item() / 2
    return FaceBox(x - half, y - half, x + half, y + half, score)


class Street:
    """A network that sees people whose nose lies in what it looks at, at most `most` at once.

    Where it looks it knows by the pixels, which hold their own places. `smallest`: the share of its
    view that a person must span to be seen. ghosts: seen in their one box only. faces: of whom
    the face is seen wherever the network looks at it.
    """

    def __init__(self, people, most=6, smallest=0.0, ghosts=(), faces=()):
        self.people, self.most, self.smallest = people, most, smallest
        self.ghosts, self.views, self.with_face = dict(ghosts), [], faces

    on_look = staticmethod(lambda: None)

    def bodies(self, array):
        x0, y0 = (int(v) for v in array[0, 0, :2])
        height, width = array.shape[:2]
        self.on_look()
        self.views.append(Box(x0, y0, x0 + width, y0 + height))
        shift = torch.tensor([x0, y0, 0.0])
        visible = [p for p in self.people if self.is_seen(p, self.views[-1])]
        visible += [p for box, p in self.ghosts.items() if box == self.views[-1]]
        return [body - shift for body in visible[: self.most]]

    def face_boxes(self, array):
        x0, y0 = (int(v) for v in array[0, 0, :2])
        boxes = [face_of(body) for body in self.with_face]
        return [
            shifted(box, -x0, -y0)
            for box in boxes
            if x0 <= box.x0 and box.x1 <= x0 + array.shape[1]
            if y0 <= box.y0 and box.y1 <= y0 + array.shape[0]
        ]

    def is_seen(self, body, view):
        x, y = body[0, :2]
        tall = body[:, 1].max() - body[:, 1].min()
        inside = view.x0 <= x < view.x1 and view.y0 <= y < view.y1
        return inside and tall >= self.smallest * (view.y1 - view.y0)


def canvas(width, height):
    """An array whose pixels are their own places."""
    array = np.zeros((height, width, 3), np.int32)
    array[..., 0], array[..., 1] = np.arange(width), np.arange(height)[:, None]
    return array


def noses(bodies):
    return sorted(tuple(int(v) for v in body[0, :2]) for body in bodies)


def test_a_row_of_people_is_found_by_a_network_that_sees_two_at_once():
    people = [person(80 + 150 * k, 150) for k in range(10)]
    street = Street(people, most=2)
    assert noses(many_looks.search(street, canvas(1600, 600))) == noses(people)


def test_small_people_are_found_in_small_squares():
    people = [person(200, 200, 12), person(700, 420, 12), person(150, 650, 12)]
    street = Street(people, smallest=0.15)
    assert noses(many_looks.search(street, canvas(900, 900))) == noses(people)
    assert {Box(0, 0, 300, 300), Box(600, 600, 900, 900)} <= set(street.views)


def test_somebody_alone_needs_three_looks():
    street = Street([person(300, 80, 55)])
    assert noses(many_looks.search(street, canvas(600, 600))) == [(300, 80)]
    assert len(street.views) == 3


def test_who_stands_beside_somebody_large_is_found():
    people = [person(450, 80, 60), person(120, 120, 50)]
    street = Street(people, most=1)
    assert noses(many_looks.search(street, canvas(600, 600))) == noses(people)


def test_a_face_of_somebody_else_keeps_the_search_going():
    large, behind = person(300, 80, 55), person(430, 130, 14)
    street = Street([large, behind], smallest=0.3, faces=[large, behind])
    assert noses(many_looks.search(street, canvas(600, 600))) == noses([large, behind])


def test_somebody_small_whose_face_is_the_only_one_needs_three_looks():
    small = person(300, 200, 12)
    street = Street([small], faces=[small])
    assert noses(many_looks.search(street, canvas(600, 600))) == noses([small])
    assert len(street.views) == 3


def test_a_face_without_a_body_is_looked_at():
    hidden = person(330, 250)
    around = many_looks.around(hidden, many_looks.MARGINS[0])
    views = (person_box(face_of(hidden)), around)
    street = Street([], faces=[hidden], ghosts=[(view, hidden) for view in views])
    assert noses(many_looks.search(street, canvas(900, 900))) == noses([hidden])


def seen(body, *looks):
    return [many_looks.Sighting(body, 1.0, look) for look in looks]


@pytest.mark.parametrize(
    ("looks", "has_face", "closer", "is_there"),
    [
        (1, False, (1, 1, 1), True),
        (1, False, (1, 1, 0), False),
        (2, False, (1, 1, 0), True),
        (2, False, (0, 1, 1), False),
        (1, True, (0, 1, 0), True),
        (3, False, (0, 1, 0), True),
        (5, False, (0, 0, 0), False),
        (6, False, (0, 0, 0), True),
        (4, True, (0, 0, 0), True),
    ],
)
def test_the_less_a_person_was_seen_the_more_closer_looks_must_agree(
    looks, has_face, closer, is_there
):
    body = person(300, 200)
    views = [many_looks.around(body, margin) for margin in many_looks.MARGINS]
    views = [Box(*(min(600, max(0, edge)) for edge in box)) for box in views]
    agreeing = [(box, body) for box, agrees in zip(views, closer, strict=True) if agrees]
    searching = many_looks._Looks(Street([], ghosts=agreeing), canvas(600, 600))
    searching.sightings = seen(body, *range(looks))
    searching.faces = [face_of(body)] if has_face else []
    assert bool(searching.people()) == is_there


def test_two_faces_are_two_people_and_one_face_is_one():
    close, turned = person(112, 100), person(100, 100)
    turned[11:, :2] += 60
    bodies = [person(100, 100), close]
    assert len(many_looks.different(bodies)) == 1
    narrow = [FaceBox(b[0, 0] - 5, 80, b[0, 0] + 5, 120, 0.9) for b in bodies]
    assert len(many_looks.different(bodies, narrow)) == 2
    assert len(many_looks.different([bodies[0], turned])) == 2
    assert len(many_looks.different([bodies[0], turned], narrow[:1])) == 1


def test_of_overlapping_faces_the_surest_stays():
    boxes = [FaceBox(k, 0, k + 40, 40, score) for k, score in ((0, 0.8), (9, 0.9), (45, 0.72))]
    assert different_faces([*boxes, FaceBox(200, 0, 240, 40, 0.65)]) == [boxes[1], boxes[2]]


def test_what_one_look_alone_has_seen_is_nobody():
    people = [person(80 + 150 * k, 150) for k in range(4)]
    ghost = person(560, 100)
    street = Street(people, ghosts=[(Box(300, 0, 600, 300), ghost)])
    bodies = many_looks.search(street, canvas(600, 600))
    assert Box(300, 0, 600, 300) in street.views and noses(bodies) == noses(people)


def test_who_is_hardly_visible_is_nobody():
    people = [person(80 + 150 * k, 150) for k in range(4)]
    people[1][many_looks.NOSE_AND_SHOULDERS, 2] = 0.3
    del (clear := list(people))[1]
    assert noses(many_looks.search(Street(people), canvas(600, 600))) == noses(clear)


def test_nobody_is_found_in_nothing_with_few_looks():
    street = Street([])
    assert many_looks.search(street, canvas(600, 600)) == [] and len(street.views) == 10


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2), (701, 33), (64, 64)])
def test_looks_stay_within_images_of_all_sizes(size):
    street = Street([person(20, 5, 3)])
    many_looks.search(street, canvas(*size))
    assert all(0 <= v.x0 < v.x1 <= size[0] and 0 <= v.y0 < v.y1 <= size[1] for v in street.views)


def test_squares_cover_the_image_and_overlap():
    look_counts = np.zeros((410, 700), int)
    for box in many_looks.squares(canvas(700, 410), 1 / 2):
        assert box.x1 - box.x0 == box.y1 - box.y0 == 205
        look_counts[box.y0 : box.y1, box.x0 : box.x1] += 1
    assert look_counts.min() >= 1 and np.median(look_counts) >= 2


def test_points_beyond_a_square_s_edge_count_against_it_but_not_beyond_the_image():
    body = person(100, 100)
    body[3:7, 0] = -5
    assert many_looks.quality(body, Box(0, 0, 300, 300), 600, 600) == 1
    body[3:7, 0] = 305
    assert many_looks.quality(body, Box(0, 0, 300, 300), 600, 600) == pytest.approx(9 / 13)


def test_the_body_of_a_cluster_lies_in_the_middle():
    shifts = (0.0, 2.0, 4.0, 6.0, 30.0)
    cluster = [many_looks.Sighting(person(100 + s, 100), 0.9, k) for k, s in enumerate(shifts)]
    cluster[4] = cluster[4]._replace(quality=1.0)
    assert many_looks.best_body(cluster)[0, 0] < 110


def test_a_person_counts_once():
    bodies = [person(100, 100), person(106, 104), person(230, 100), person(101, 100, 42)]
    assert noses(many_looks.different(bodies)) == [(100, 100), (230, 100)]


@pytest.mark.parametrize(("settings", "count"), [({}, 10), ({"max_people": 3}, 3)])
def test_the_default_keeps_everybody(monkeypatch, settings, count):
    detector = LandmarkDetector(Street([]), hands=False)
    people = [person(80 + 150 * k, 150) for k in range(10)]
    monkeypatch.setattr(detector, "find_bodies", lambda array, boxes: people)
    assert pose.count(detector.detect(torch.zeros(600, 1600, 3), **settings)) == count


# faces


def test_a_mesh_becomes_openpose_s_70_points():
    mesh = torch.rand(468, 2)
    points = face_points(mesh)
    assert points.shape == (70, 3) and (points[:, 2] == 1).all()
    # the chin, the tip of the nose, the corners of the mouth: 8, 30, 48 and 54 of iBUG
    assert torch.equal(points[[8, 30, 48, 54], :2], mesh[[152, 4, 61, 291]])
    torch.testing.assert_close(points[68, :2], points[36:42, :2].mean(0))
    torch.testing.assert_close(points[69, :2], points[42:48, :2].mean(0))


class Facing(Street):
    """A street whose people have faces, each around its nose; `elsewhere` moves them away."""

    def __init__(self, people, elsewhere=0.0):
        super().__init__(people)
        self.elsewhere = elsewhere

    def faces(self, array):
        height, width = array.shape[:2]
        mesh = torch.stack([torch.linspace(-20, 20, 468)] * 2, 1)
        return [mesh + torch.tensor([width / 2, height / 2]) + self.elsewhere]


@pytest.mark.parametrize(("elsewhere", "has_face"), [(0.0, True), (60.0, False)])
def test_a_face_belongs_to_the_nose_that_lies_in_it(elsewhere, has_face, monkeypatch):
    street = Facing([], elsewhere)
    monkeypatch.setattr(street, "bodies", lambda array: [person(300, 200)])
    detector = LandmarkDetector(street, hands=False, face=True)
    people = detector.detect(torch.zeros(600, 600, 3), boxes=[Box(0, 0, 600, 600)])
    assert pose.count(people) == 1 and bool(people.face.any()) == has_face
    if has_face:
        assert (people.face[0, :, :2] - torch.tensor([300.0, 200])).abs().max() <= 21
