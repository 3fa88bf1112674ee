"""Stop a training by Ctrl-C or SIGTERM, at a moment at which it can be saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Turns both signals into KeyboardInterrupt while its context lasts, but not inside `held`."""

    def __init__(self) -> None:
        self._arrived = self._held = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            self._handlers = {number: signal.signal(number, self._arrive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _arrive(self, *_: object) -> None:
        self._arrived = True
        if not self._held:
            raise KeyboardInterrupt

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let what belongs together be completed: a signal that arrives meanwhile acts after it."""
        self._arrived, self._held = False, True
        try:
            yield
        finally:
            self._held = False
        if self._arrived:
            raise KeyboardInterrupt
