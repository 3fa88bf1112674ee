"""How much faster a batch is done by two hosts of this machine than by one.

Every host computes on one thread. The two arrangements take turns, with fresh seeds each time, so
that neither gains from a host's cache nor from a quiet minute. Whatever else runs on the machine
takes from the second host first: `load_before` says how much that was. Rows that wait, as a host
does while its graphics card works, tell what the runner itself allows.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ...batch.vitruvian_batch import jobs
from ...batch.vitruvian_batch.host import Host
from ...batch.vitruvian_batch.manifest import Manifest
from ...batch.vitruvian_batch.run import Patience, Run
from ...batch.vitruvian_batch.table import Row
from ...batch.vitruvian_batch.workflow import Workflow
from ...tools.hosts import prepare_base
from ...tools.paths import ROOT
from ...tools.server import Server

HOSTS = 2
WAIT = """
import time

class Wait:
    CATEGORY, RETURN_TYPES, FUNCTION, OUTPUT_NODE = "benchmark", (), "wait", True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0}), "seconds": ("FLOAT", {"default": 1})}}

    def wait(self, seed, seconds):
        time.sleep(seconds)
        return ()

NODE_CLASS_MAPPINGS = {"Wait": Wait}
"""


class Turn(NamedTuple):
    """Hold the seconds for all rows, and the share of them in which the hosts computed."""

    seconds: float
    busy: float


def run(quick: bool) -> dict[str, float]:
    """Measure one host against two; the numbers of results/batch.json.

    `speedup` is the median over the turns, in each
    the seconds of one host over the seconds of two for equally many rows.
    """
    rows, turns = 8, 1 if quick else 7
    nodes = json.loads((ROOT / "workflows" / "api" / "text_to_person.json").read_text())
    flow = Workflow("text_to_person", nodes)
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the hosts
    waits = Workflow("wait", {"1": {"class_type": "Wait", "inputs": {"seed": 0, "seconds": 1.0}}})
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        hosts = [start(stack, Path(folder) / f"host-{n}") for n in range(HOSTS)]
        work(flow, hosts, HOSTS, 0, Path(folder) / "warm")  # loads the model into each
        one, two = take_turns(flow, hosts, rows, turns, Path(folder) / "turns")
        alone, two_hosts = take_turns(waits, hosts, 12, 1, Path(folder) / "waits")
    speedups = [a.seconds / b.seconds for a, b in zip(one, two, strict=True)]
    return {
        "cores": os.cpu_count() or 1,
        "load_before": load,
        "rows": rows,
        "turns": turns,
        "threads_per_host": 1,
        "seconds_per_row_one_host": statistics.median(turn.seconds for turn in one) / rows,
        "seconds_per_row_two_hosts": statistics.median(turn.seconds for turn in two) / rows,
        "speedup": statistics.median(speedups),
        "speedup_least": min(speedups),
        "speedup_most": max(speedups),
        "busy_share_one_host": statistics.median(turn.busy for turn in one),
        "busy_share_two_hosts": statistics.median(turn.busy for turn in two),
        "speedup_waiting_rows": alone[0].seconds / two_hosts[0].seconds,
        "busy_share_waiting_rows": two_hosts[0].busy,
    }


def start(stack: contextlib.ExitStack, base: Path) -> Host:
    """Start a host below `base`, for as long as the stack lives."""
    prepare_base(base)
    (base / "custom_nodes" / "wait.py").write_text(WAIT)
    folder = Path(os.environ["COMFYUI_PATH"])
    server = stack.enter_context(Server(Path(sys.executable), folder, base, "--cpu"))
    return Host(server.url)


def take_turns(
    flow: Workflow, hosts: list[Host], rows: int, turns: int, out: Path
) -> tuple[list[Turn], list[Turn]]:
    """Time the first host alone and all hosts, in turns."""
    one, two = [], []
    for turn in range(1, turns + 1):
        one.append(work(flow, hosts[:1], rows, 2000 * turn, out / f"{turn}-one"))
        two.append(work(flow, hosts, rows, 2000 * turn + 1000, out / f"{turn}-all"))
    return one, two


def work(flow: Workflow, hosts: list[Host], rows: int, seed: int, out: Path) -> Turn:
    """Run so many rows."""
    table = [Row(n, f"row {n}", {"_": n}) for n in range(1, rows + 1)]
    planned = jobs.plan([flow], table, out, seed)
    manifest = Manifest(out / "manifest.jsonl", out, False)
    begun = time.perf_counter()
    numbers = manifest.remaining(planned)
    batch = Run(planned, numbers, list(hosts), manifest, Patience(0, 60), lambda news: None)
    for thread in batch.start():
        thread.join()
    seconds = time.perf_counter() - begun
    manifest.close()
    if len(manifest.done) != rows:
        raise RuntimeError(f"{len(manifest.done)} of {rows} rows were done")
    prompts = [manifest.prompt_id(key) for key in planned.keys]
    computed = sum(execution(host, prompt) for host in hosts for prompt in prompts)
    return Turn(seconds, computed / seconds / len(hosts))


def execution(host: Host, prompt: str) -> float:
    """Read the seconds that a host computed on a run by its own clock, 0 if it was another's."""
    past = host.past(prompt)
    times = {event: data["timestamp"] for event, data in past["status"]["messages"]} if past else {}
    return (times["execution_success"] - times["execution_start"]) / 1000 if times else 0.0
