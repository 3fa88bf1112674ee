"""Vitruvian: pictures of people for ComfyUI. This file only registers."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI. The host is imported here only, so the pack imports without one."""
    from comfy_api.latest import ComfyExtension

    from .host.registration import register
    from .nodes import (
        appearance,
        attention,
        compose,
        hands,
        hcp,
        memory,
        parsing,
        pose,
        pose_editor,
        refiner,
        structure,
        structure_data,
        training,
    )  # fmt: skip

    register()

    class Vitruvian(ComfyExtension):
        async def get_node_list(self):
            return [
                *pose.NODES, *compose.NODES, *hands.NODES, *hcp.NODES, *attention.NODES,
                *training.NODES, *structure.NODES, *refiner.NODES, *structure_data.NODES,
                *parsing.NODES, *memory.NODES, *appearance.NODES, *pose_editor.NODES,
            ]  # fmt: skip

    return Vitruvian()
