"""A progress bar on the terminal for a workflow that a server runs."""

import asyncio
import contextlib
import json
import sys
import threading
import uuid

import aiohttp  # ComfyUI requires it, so its environment has it


class Progress:
    """Follow a server's messages and draw a bar, for the length of a `with` block.

    url: the server's. titles: node id -> what the bar calls it. Nothing depends on the bar: without
    a connection there is none. `client` is the id with which the workflow is to be queued.
    """

    def __init__(self, url: str, titles: dict[str, str]) -> None:
        self.client = uuid.uuid4().hex
        self.address, self.titles = f"{url}/ws?clientId={self.client}", titles
        self.last_title = ""
        self.connected = threading.Event()

    def __enter__(self) -> "Progress":
        threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True).start()
        self.connected.wait(10)  # so that the first message is not missed
        return self

    def __exit__(self, *_: object) -> None:
        if self.last_title and sys.stdout.isatty():
            print()

    async def _follow(self) -> None:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(self.address, max_msg_size=0) as socket:
                    self.connected.set()
                    async for message in socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            self._show(json.loads(message.data))
        self.connected.set()

    def _show(self, message: dict) -> None:
        title = self.titles.get(str(message["data"].get("node")))
        if message["type"] not in ("progress", "executing") or not title:
            return
        value, maximum = message["data"].get("value", 0), message["data"].get("max", 0)
        if sys.stdout.isatty():
            filled = round(24 * value / maximum) if maximum else 0
            count = f"{value}/{maximum}" if maximum else ""
            print(f"\r\033[K[{'#' * filled:-<24}] {title} {count}", end="", flush=True)
        elif title != self.last_title:
            print(f"  {title}", flush=True)
        self.last_title = title
