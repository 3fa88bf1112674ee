"""Answer the pose editor in the browser: read poses in every form that the pack reads."""

import sys

from aiohttp import web

from ..models import pose

READ_POSE = "/vitruvian/read_pose"


def add_routes() -> None:
    """Offer the routes to the host's server, once. Nodes that run without a server have none."""
    prompt_server = getattr(sys.modules.get("server"), "PromptServer", None)
    server = getattr(prompt_server, "instance", None)
    if server and not any(getattr(route, "path", "") == READ_POSE for route in server.routes):
        server.routes.post(READ_POSE)(read_pose)


async def read_pose(request: web.Request) -> web.Response:
    """Answer a pose in JSON with its frames as OpenPose, or with what is wrong with it."""
    try:
        frames = [pose.keep_confident(people) for people in pose.read_poses(await request.json())]
    except RecursionError:
        return web.json_response({"error": "its lists are nested too deep"}, status=400)
    except ValueError as error:  # also of what is not JSON
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"frames": [pose.write_frame(people) for people in frames]})
