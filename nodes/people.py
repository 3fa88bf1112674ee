"""Pick people from a pose, and merge the people of two poses."""

from typing import Any

from comfy_api.latest import io

from ..models import pose
from ..models.batches import one_each, paired_count
from ..models.pose import People
from .inputs import named_errors, pose_input, read_all_points, write_poses
from .wires import PoseKeypoint

CATEGORY = "Vitruvian/pose"


class VitruvianPickPeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianPickPeople",
            display_name="Pick People",
            category=CATEGORY,
            description="Keeps only the people with these numbers, counted from the left.",
            inputs=[
                pose_input(),
                io.String.Input(
                    "person_numbers",
                    default="1",
                    tooltip="Numbers from the left; the leftmost person is 1. Examples: 1, 3 or "
                    "2-4.",
                ),
            ],
            outputs=[
                PoseKeypoint.Output(
                    "pose_out", "pose", tooltip="The chosen people, in the order of the numbers."
                ),
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, pose: Any, person_numbers: str) -> io.NodeOutput:
        return io.NodeOutput(
            write_poses([_pick(people, person_numbers) for people in read_all_points(pose)])
        )


def _pick(people: People, person_numbers: str) -> People:
    order = pose.left_to_right(people, pose.MIN_CONFIDENCE)  # as all nodes number people
    if not order:
        return pose.no_people(people.width, people.height)  # an empty frame among others
    try:
        numbers = pose.parse_numbers(person_numbers, len(order))
    except ValueError as error:
        raise ValueError(f"the input 'person_numbers': {error}") from None
    return pose.pick(people, [order[number] for number in numbers])


class VitruvianMergePeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianMergePeople",
            display_name="Merge People",
            category=CATEGORY,
            description="Puts the people of two poses into one pose.",
            inputs=[
                pose_input("pose_1", "People, and the canvas of the result."),
                pose_input(
                    "pose_2", "More people. Their canvas is scaled until it covers that of pose_1."
                ),
            ],
            outputs=[
                PoseKeypoint.Output(
                    "pose", "pose", tooltip="The people of pose_1, then those of pose_2."
                )
            ],
        )

    @classmethod
    @named_errors
    def execute(cls, pose_1: Any, pose_2: Any) -> io.NodeOutput:
        frames_1, frames_2 = read_all_points(pose_1, "pose_1"), read_all_points(pose_2, "pose_2")
        count = paired_count({"pose_1": len(frames_1), "pose_2": len(frames_2)})
        pairs = zip(one_each(frames_1, count), one_each(frames_2, count), strict=True)
        return io.NodeOutput(write_poses([pose.merge(*pair) for pair in pairs]))


NODES: list[type[io.ComfyNode]] = [
    VitruvianPickPeople,
    VitruvianMergePeople,
]
