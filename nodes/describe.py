"""Divide one sentence among the people of an image, by rule and as a request to a model."""

from typing import Any

from comfy_api.latest import io, ui

from ..models import pose, sentence_request
from ..models.sentences import Split, prompt_lines, split_sentence
from .inputs import count_input, min_confidence_input, named_errors, pose_input, read_pose

CATEGORY = "Vitruvian/compose"


class VitruvianDescribePeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VitruvianDescribePeople",
            display_name="Describe People",
            category=CATEGORY,
            description="Divides one sentence among the people in it, for Instances from Text: by "
            "rule, which needs no model, or as a request that a language model answers.",
            inputs=[
                io.String.Input(
                    "sentence",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the image shows, in English, such as 'a knight on the left and a "
                    "nun in red, in a park'.",
                ),
                count_input(
                    "How many people there are. 0: as many as the pose has; without a pose, as "
                    "many as the sentence names."
                ),
                pose_input(
                    tooltip="The people, as keypoints. The request says what they show: who "
                    "stands or sits, whose arms are raised, who touches whom.",
                    optional=True,
                ),
                min_confidence_input(
                    "Points below this confidence are not used.",
                    optional=True,
                ),
            ],
            outputs=[
                io.String.Output(
                    "prompts",
                    "prompts",
                    tooltip="One line per person, divided by rule. For the input of the same name.",
                ),
                io.String.Output(
                    "setting",
                    "setting",
                    tooltip="What the sentence says of the place and the style.",
                ),
                io.Int.Output(
                    "count_out",
                    "count",
                    tooltip="How many people there are; 0 if that is not sure.",
                ),
                io.String.Output(
                    "request",
                    "request",
                    tooltip="The request for a language model. Connect its answer to 'prompts' of "
                    "Instances from Text.",
                ),
                io.Boolean.Output(
                    "sure", "sure", tooltip="Off: the rules may have divided the sentence wrongly."
                ),
                io.String.Output(
                    "report",
                    "report",
                    tooltip="Who is who, why that is not sure, and what the pose shows.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    @named_errors
    def execute(
        cls,
        sentence: str,
        count: int,
        pose: Any = None,
        min_confidence: float | None = None,
    ) -> io.NodeOutput:
        sentence = " ".join(sentence.split())
        if not sentence:
            raise ValueError("the input 'sentence' is empty. Write what the image shows.")
        pose_texts = [] if pose is None else _pose_texts(pose, min_confidence)
        expected = count or len(pose_texts)
        split = split_sentence(sentence, expected)
        expected = expected or (0 if split.doubts else len(split.persons))
        report = _report(split, pose_texts)
        request = sentence_request.write_request(sentence, expected, pose_texts)
        return io.NodeOutput(
            "\n".join(prompt_lines(split)),
            split.setting,
            expected,
            request,
            not split.doubts,
            report,
            ui=ui.PreviewText(report),
        )


def _pose_texts(keypoints: Any, min_confidence: float | None) -> list[str]:
    """Read what the frame with the most people shows of each of them, from left to right."""
    frames = read_pose(keypoints, min_confidence=min_confidence)
    return sentence_request.read_pose(max(frames, key=pose.count))


def _report(split: Split, pose_texts: list[str]) -> str:
    """Write who is who, why that may be wrong, and what the pose shows."""
    lines = [f"{number}. {person}" for number, person in enumerate(split.persons, 1)]
    if split.setting:
        lines.append(f"All: {split.setting}")
    lines += [f"Not sure: {doubt}." for doubt in split.doubts]
    lines += [f"Pose {number}: {text or 'not clear'}" for number, text in enumerate(pose_texts, 1)]
    return "\n".join(lines)


NODES: list[type[io.ComfyNode]] = [VitruvianDescribePeople]
