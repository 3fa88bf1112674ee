"""Hooks on a network's modules that act in one call of the network, and in no other.

Of the host's object patches there is one slot for all packs, so what a method does inside a network
are module hooks. But a module is everybody's: another thread may sample with it meanwhile, and a
wrapper of another pack may call it for itself in the middle of our call. The options of a call say
whether it is ours.

torch.compile does not look for new hooks when it runs what it has compiled, and the host's own node
lets it overlook changes of the options. So our calls run uncompiled; all others as they were.
"""

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP

MARK = "vitruvian_call"  # in transformer_options: the call with our hooks
COMPILED = "torch.compile"  # the host's key of the wrapper that puts compiled modules in place


class HookedCall(threading.local):
    """One call of a network with hooks, as each thread sees it."""

    def __init__(self):
        self.is_running = False
        self._outer: list[bool] = []

    def begin(self, _, inputs: tuple, named: Mapping[str, Any]) -> None:
        """Note that the network begins, with our options or with others."""
        values = (*inputs, *named.values())
        self._outer.append(self.is_running)
        self.is_running = any(isinstance(v, Mapping) and v.get(MARK) is self for v in values)

    def end(self, *_) -> None:
        """Note that the network ends, also by an error."""
        self.is_running = self._outer.pop() if self._outer else False

    def __deepcopy__(self, memo: dict) -> "HookedCall":
        """Return the call itself: other packs copy the options, which stay those of this call."""
        return self


_CALL: ContextVar[HookedCall] = ContextVar("vitruvian_call")


@contextmanager
def hooked_call(network: Any, options: Mapping[str, Any], method: str) -> Iterator[dict[str, Any]]:
    """While it lasts, `hook_before` and `hook_after` make hooks that act in calls of this network
    with the options that it gives: new transformer_options. `method` begins errors.
    """
    call, module = HookedCall(), original(network)
    token = _CALL.set(call)
    hooks = [
        module.register_forward_pre_hook(call.begin, with_kwargs=True),
        module.register_forward_hook(call.end, always_call=True),
    ]
    try:
        with _UNCOMPILED.lasting(network, options, method):
            yield {**options, MARK: call}
    finally:
        _CALL.reset(token)
        for hook in hooks:
            hook.remove()


def hook_before(module: Any, hook: Callable, *, with_kwargs: bool = False) -> Any:
    """Let a hook act before a module in the calls of `hooked_call`; its arguments are those of
    torch's `register_forward_pre_hook`. Returns a handle to remove.
    """
    return original(module).register_forward_pre_hook(_guarded(hook), with_kwargs=with_kwargs)


def hook_after(module: Any, hook: Callable, *, with_kwargs: bool = False) -> Any:
    """Let a hook act behind a module in the calls of `hooked_call`; its arguments are those of
    torch's `register_forward_hook`. Returns a handle to remove.
    """
    return original(module).register_forward_hook(_guarded(hook), with_kwargs=with_kwargs)


@contextmanager
def removed_at_the_end(hooks: Sequence[Any]) -> Iterator[None]:
    """Remove hooks at the end, also after an error."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _guarded(hook: Callable) -> Callable:
    call = _CALL.get()

    def guarded(*arguments):
        return hook(*arguments) if call.is_running else None

    return guarded


def original(module: Any) -> Any:
    """Return the module that torch.compile has wrapped: the wrapper has no hooks of its own."""
    return getattr(module, "_orig_mod", module)


class _Uncompiled:
    """Runs compiled modules as they were before, while any call with our hooks lasts."""

    def __init__(self):
        self._lock, self._calls, self._stance = threading.Lock(), 0, None

    @contextmanager
    def lasting(self, network: Any, options: Mapping[str, Any], method: str) -> Iterator[None]:
        if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
            yield
            return
        if not hasattr(torch.compiler, "set_stance"):  # older than PyTorch 2.6
            _check_not_compiled(network, options, method)
            yield
            return
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        """The compiler has one stance for all threads: the last call puts it back."""
        with self._lock:
            if self._calls == 0:
                self._stance = torch.compiler.set_stance("force_eager")
            self._calls += change
            if self._calls == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)


_UNCOMPILED = _Uncompiled()


def _check_not_compiled(network: Any, options: Mapping[str, Any], method: str) -> None:
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    if COMPILED in wrappers or original(network) is not network:
        raise ValueError(
            f"{method}: the model is compiled, and PyTorch {torch.__version__} can not run it "
            "uncompiled for a while, as the people need it. Remove the node that compiles it "
            "(TorchCompileModel), or update PyTorch to 2.6 or newer."
        )
