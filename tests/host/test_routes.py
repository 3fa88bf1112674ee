"""What the server answers to the pose editor in the browser."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from aiohttp import web
from vitruvian.host import routes
from vitruvian.models import pose

POSES = Path(__file__).parents[1] / "poses"


def ask(content):
    """The status and the content of the answer to this body."""

    class Request:
        async def json(self):
            return json.loads(content)

    answer = asyncio.run(routes.read_pose(Request()))
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("name", ["coco_annotations", "body25_video", "older_editor_two_people"])
def test_a_pose_comes_back_as_openpose(name):
    text = (POSES / f"{name}.json").read_text()
    status, answer = ask(text)
    assert status == 200
    people = [pose.keep_confident(frame) for frame in pose.read_poses(json.loads(text))]
    again = [pose.read_frame(frame) for frame in answer["frames"]]
    assert [frame.body.tolist() for frame in again] == [frame.body.tolist() for frame in people]


@pytest.mark.parametrize("content", ["{", '"words"', '{"people": 3}', "[" * 100_000])
def test_what_is_no_pose_is_told(content):
    status, answer = ask(content)
    assert status == 400 and len(answer["error"]) > 10


def test_the_route_is_offered_once(monkeypatch):
    server = SimpleNamespace(routes=web.RouteTableDef())
    prompt_server = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(routes.sys.modules, "server", prompt_server)
    routes.add_routes()
    routes.add_routes()
    assert [route.path for route in server.routes] == [routes.READ_POSE]


def test_without_a_server_there_is_no_route(monkeypatch):
    monkeypatch.delitem(routes.sys.modules, "server", raising=False)
    routes.add_routes()
