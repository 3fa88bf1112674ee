"""Vitruvian: images of people for ComfyUI. This file only registers the nodes."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension to ComfyUI. The host is imported here only: the pack needs none."""
    from comfy_api.latest import ComfyExtension

    from .host.registration import register
    from .nodes import NODES

    register()

    class Vitruvian(ComfyExtension):
        async def get_node_list(self):
            return list(NODES)

    return Vitruvian()
