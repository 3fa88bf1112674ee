"""Vitruvian: pictures of people for ComfyUI. This file only registers."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called once by ComfyUI. The host is imported here only, so the pack imports without one."""
    from comfy_api.latest import ComfyExtension

    from .host.registration import register
    from .nodes import (
        appearance,
        compose,
        hands,
        human_attention,
        human_prior,
        human_prior_training,
        memory,
        pose,
        pose_editor,
        refiner,
        semantic_map,
        structure,
        structure_data,
    )

    register()

    class Vitruvian(ComfyExtension):
        async def get_node_list(self):
            return [
                *pose.NODES,
                *compose.NODES,
                *hands.NODES,
                *human_prior.NODES,
                *human_attention.NODES,
                *human_prior_training.NODES,
                *structure.NODES,
                *refiner.NODES,
                *structure_data.NODES,
                *semantic_map.NODES,
                *memory.NODES,
                *appearance.NODES,
                *pose_editor.NODES,
            ]

    return Vitruvian()
