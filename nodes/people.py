"""Pick people from a pose, and merge the people of two poses."""

from typing import Any

from comfy_api.latest import io

from ..models import pose
from ..models.pose import People
from .inputs import named_errors, pose_input, read_pose, write_poses
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
            write_poses([_pick(people, person_numbers) for people in read_pose(pose)])
        )


def _pick(people: People, person_numbers: str) -> People:
    order = pose.left_to_right(people)
    if not order:
        return people  # an empty frame among others
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
                pose_input("pose_2", "More people. Their canvas is scaled until it covers that of pose_1."),
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
        poses = read_pose(pose_1, "pose_1"), read_pose(pose_2, "pose_2")
        counts = [len(frames) for frames in poses]
        if counts[0] != counts[1] and 1 not in counts:
            raise ValueError(
                f"'pose_1' has {counts[0]} frames and 'pose_2' {counts[1]}: they need equally "
                "many, or one of them a single frame."
            )
        pairs = zip(*(frames * (max(counts) // len(frames)) for frames in poses), strict=True)
        return io.NodeOutput(write_poses([pose.merge(*pair) for pair in pairs]))


NODES: list[type[io.ComfyNode]] = [
    VitruvianPickPeople,
    VitruvianMergePeople,
]
