"""The command `vitruvian-batch`."""

import argparse
import contextlib
import functools
import itertools
import math
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from . import __version__, needs, sheet, table, workflow
from .connection import read_access, split_url
from .host import Host
from .jobs import MOST_MISTAKES, Plan, plan
from .manifest import Manifest, check_place
from .run import Patience, Run, Worker
from .started_host import Installation, StartedHost
from .table import Row, Table
from .trouble import BadInput, DiskFull, HostAway, HostGone, RowFailed
from .values import shorten
from .workflow import Workflow

HERE = "http://127.0.0.1:8188"
CHECK = "check"
BAR = (
    "{percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt} rows, {elapsed} gone, {remaining} left, "
    "{rate_fmt}"
)
LISTED = 20  # rows of --dry-run
DONE, SOME_FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

EXAMPLES = """examples:
  vitruvian-batch check person.json people.csv       what would go wrong, all of it; runs nothing
  vitruvian-batch person.json people.csv --sheet     and a page with all images at the end
  vitruvian-batch person.json people.csv --host http://one:8188 --host http://two:8188
  vitruvian-batch person.json people.csv --comfyui ~/ComfyUI --resume
  vitruvian-batch person.json --seed 100             one run of the workflow

A table's columns are called title.input, after the node's title in ComfyUI: "The prompt.text".
The column seed means all seeds. A file of this machine goes to the host; photos/*.png makes a row
for every file. The same command with --resume goes on after anything.

ends with 0 if all rows are done, 1 if some failed, 2 if the command or the table is wrong (then
nothing was run), 130 after Ctrl-C."""


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    command_line = argparse.ArgumentParser(
        "vitruvian-batch",
        description="Run a saved ComfyUI workflow over a table.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command_line.add_argument
    add(
        "workflows",
        nargs="+",
        metavar="WORKFLOW",
        type=Path,
        help="a saved workflow, or a folder of them; a table may follow. The word check before it "
        "says all that would go wrong, and runs nothing",
    )
    add("--table", metavar="FILE", type=Path, help="CSV or JSON lines; without it, one run of each")
    add(
        "--seed",
        metavar="N",
        type=int,
        help="the first image's seed, one more for each next; columns go before it",
    )
    add(
        "--out",
        metavar="FOLDER",
        type=Path,
        help="where images go (NAME-images, after the table or workflow)",
    )
    add(
        "--manifest",
        metavar="FILE",
        type=Path,
        help="the record of the batch (manifest.jsonl in --out)",
    )
    add("--resume", action="store_true", help="go on with a batch: what is done is left out")
    add("--dry-run", action="store_true", help="the same as check")
    add("--sheet", action="store_true", help=f"write a page with all images, {sheet.NAME} in --out")
    add(
        "--retries",
        metavar="N",
        type=int,
        default=3,
        help="tries for a row whose host went away (%(default)s)",
    )
    add(
        "--timeout",
        metavar="S",
        type=float,
        default=300,
        help="seconds to wait for a host that is away or starting (%(default)s)",
    )
    add(
        "--row-timeout",
        metavar="S",
        type=float,
        default=math.inf,
        help="seconds that a row may run before it is stopped and fails (no limit)",
    )
    add("--version", action="version", version=__version__)
    hosts = command_line.add_argument_group("hosts")
    add = hosts.add_argument
    add(
        "--host",
        metavar="URL",
        action="append",
        default=[],
        help=f"a running ComfyUI; give it again for more ({HERE})",
    )
    add(
        "--header",
        metavar="TEXT",
        action="append",
        default=[],
        help="for hosts behind a proxy: 'NAME: VALUE', or @FILE with such lines; again for more",
    )
    add(
        "--certificate",
        metavar="FILE",
        type=Path,
        help="the authority (PEM) that signs the certificate of a host with https",
    )
    add("--comfyui", metavar="FOLDER", type=Path, help="start the ComfyUI in this folder instead")
    add("--hosts", metavar="N", type=int, help="how many of them, one for each graphics card")
    add("--python", metavar="FILE", type=Path, help="its Python, if not found beside it")
    add(
        "--host-options",
        metavar="TEXT",
        default="",
        type=shlex.split,
        help="more of its command line: --host-options='--lowvram'",
    )
    add(
        "--ray",
        metavar="ADDRESS",
        nargs="?",
        const="local",
        help="hosts on a Ray cluster, or on Ray on this machine alone",
    )
    return command_line


def main(arguments: list[str] | None = None) -> int:
    """Run the command with these arguments, or those of the process; its exit status."""
    options = parser().parse_args(arguments)
    try:
        _sort_files(options)
        return _main(options)
    except BadInput as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    except DiskFull as error:
        sys.stderr.write(f"{error}\n")
        return SOME_FAILED
    except BrokenPipeError:  # nobody reads any more: the terminal was closed
        return SOME_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        place = f"{error.filename}: " if error.filename else "The system refuses: "
        sys.stderr.write(f"{place}{error.strerror or error}.\n")
        return SOME_FAILED
    except Exception as error:
        sys.stderr.write(f"{_fault(error)}\n")
        return SOME_FAILED


def _fault(error: Exception) -> str:
    """Say in one line where this program failed."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"vitruvian-batch cannot go on, by a fault of its own: {type(error).__name__}: "
        f"{shorten(error, 300)} ({Path(place.filename).name}, line {place.lineno})."
    )


def _sort_files(options: argparse.Namespace) -> None:
    """Tell the table, and the word `check`, from the workflows before them on the command line."""
    files: list[Path] = options.workflows
    if files[0] == Path(CHECK) and len(files) > 1 and not files[0].exists():
        options.dry_run = True
        files = files[1:]
    tables = [file for file in files if file.suffix.lower() in table.SUFFIXES]
    if len(tables) > 1 or (tables and options.table):
        raise BadInput(f"Give one table: {', '.join(map(str, [*tables, options.table or '']))}.")
    options.table = tables[0] if tables else options.table
    options.workflows = [file for file in files if file not in tables]
    if not options.workflows:
        raise BadInput(f"Name a workflow before the table {options.table}.")


def _main(options: argparse.Namespace) -> int:
    files = _files(options.workflows)
    contents = [(file, workflow.read(file)) for file in files]
    rows = table.Table(options.table) if options.table else None
    _check_numbers(options)
    source = options.table or options.workflows[0]
    out = options.out = options.out or Path(f"{source.stem}-images")
    workers = _workers(options, out)
    try:
        infos = _start(workers, options, any(workflow.is_ui(content) for _, content in contents))
        jobs = _plan(options, contents, rows, infos)
        if options.dry_run:
            return _show(jobs)
        manifest = Manifest(_manifest_path(options), out, options.resume)
        try:
            absent = {worker.name for worker in workers} - {worker.name for worker, _ in infos}
            return _run(options, jobs, workers, manifest, absent)
        finally:
            manifest.close()
    finally:
        _close(workers, options)


def _manifest_path(options: argparse.Namespace) -> Path:
    return options.manifest or options.out / "manifest.jsonl"


def _files(workflows: list[Path]) -> list[Path]:
    files = []
    for path in workflows:
        matches = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not matches:
            raise BadInput(f"There are no .json files in {path}.")
        files += matches
    return files


def _check_numbers(options: argparse.Namespace) -> None:
    if options.comfyui and options.host:
        raise BadInput("Give --host for a ComfyUI that runs, or --comfyui to start one: not both.")
    if options.hosts is not None and (options.hosts < 1 or not options.comfyui):
        raise BadInput("--hosts is the number of ComfyUIs to start: it needs --comfyui FOLDER.")
    if options.retries < 0 or not options.timeout > 0:
        raise BadInput("--retries must be 0 or more, and --timeout more than 0 seconds.")
    if not options.row_timeout > 0:
        raise BadInput("--row-timeout must be more than 0 seconds.")


def _plan(
    options: argparse.Namespace,
    contents: list[tuple[Path, dict[str, Any]]],
    rows: Table | None,
    infos: list[tuple[Any, dict[str, Any]]],
) -> Plan:
    """Plan all jobs. BadInput lists all nodes that a host lacks, then what is wrong in the table.

    infos: every host with the nodes that it knows. A dry run also lists the files that a host
    lacks; otherwise they are told, and their rows fail with the host's own message.
    """
    lacks = [
        f"{file}: {worker.name} has no node {', '.join(missing)}. Install the pack that brings it."
        for file, content in contents
        for worker, info in infos
        if (missing := needs.missing_nodes(content, info))
    ]
    first = infos[0][1] if infos else {}
    absent = {kind: needs.ABSENT for _, content in contents for kind in _missing(content, first)}
    flows, jobs = [], None
    mistakes = [*lacks]
    try:
        flows = [workflow.build(file, content, {**first, **absent}) for file, content in contents]
        if infos:
            for flow in flows:
                needs.check_saves(flow)
        folder = options.table.parent if options.table else Path()
        alone = [Row(1, "the workflow as it is", {})]
        most = sys.maxsize if options.dry_run else MOST_MISTAKES
        jobs = plan(flows, alone if rows is None else rows, folder, options.seed, most)
    except BadInput as error:
        mistakes += str(error).splitlines()
    if options.dry_run:
        mistakes += _further_mistakes(options, flows, jobs, infos)
    for line in _missing_files(flows, jobs, infos):
        if options.dry_run or jobs is None:
            mistakes.append(line)
        elif not mistakes:
            tqdm.write(f"{line}. Rows that keep this value will fail.")
    if mistakes and options.dry_run:
        mistakes.append(f"Nothing was run. To mend: {len(mistakes)}.")
    if mistakes or jobs is None:
        raise BadInput("\n".join(mistakes))
    return jobs


def _further_mistakes(
    options: argparse.Namespace,
    flows: list[Workflow],
    jobs: Plan | None,
    infos: list[tuple[Any, dict[str, Any]]],
) -> list[str]:
    """List what else would go wrong: in the workflows as they were saved, and with the folder."""
    lines = [
        f"{flow.name}: {worker.name} would refuse {line}"
        for index, flow in enumerate(flows)
        for worker, info in infos
        for line in needs.unfit_values(
            replace(flow, kinds=info), jobs.filled(index) if jobs else set()
        )
    ]
    try:
        check_place(_manifest_path(options), options.out, options.resume)
    except BadInput as error:
        lines.append(str(error))
    return lines


def _missing(content: dict[str, Any], info: dict[str, Any]) -> list[str]:
    return needs.missing_nodes(content, info) if info else []


def _missing_files(
    flows: list[Workflow], jobs: Plan | None, infos: list[tuple[Any, dict[str, Any]]]
) -> list[str]:
    """List what every host does not offer of the values in the workflows: `host: node: value`."""
    return [
        f"{flow.name}: {worker.name} lacks for {line}"
        for index, flow in enumerate(flows)
        for worker, info in infos
        for line in needs.missing_files(
            replace(flow, kinds=info), jobs.filled(index) if jobs else set(), worker.has_input
        )
    ]


# Hosts


def _workers(options: argparse.Namespace, out: Path) -> list[Any]:
    """Make the hosts of the command line, not started yet."""
    if options.ray:
        from . import ray_backend

        ray_backend.connect(options.ray)
    if options.comfyui:
        cards = ray_backend.graphics_cards() if options.ray else 0
        count = options.hosts or cards or 1
        starters: list[Any] = [
            _starter(options, out, number, count) for number in range(1, count + 1)
        ]
    else:
        cards = 0
        access = read_access(options.header, options.certificate)
        urls = {split_url(url)[0]: url for url in options.host or [HERE]}
        starters = [
            functools.partial(Host, url, access, options.row_timeout) for url in urls.values()
        ]
    if not options.ray:
        return [starter() for starter in starters]
    card = min(cards, 1)
    ray_backend.check_room(len(starters), card)
    return [
        ray_backend.RayWorker(_name_on_ray(starter, number), starter, card, options.retries)
        for number, starter in enumerate(starters, 1)
    ]


def _starter(
    options: argparse.Namespace, out: Path, number: int, count: int
) -> Callable[[], StartedHost]:
    """Make what starts one host. On Ray it may happen on another machine, and Ray names its card.

    Hosts of one folder share all but the folder for previews, which every host empties when it
    starts.
    """
    line = list(options.host_options)
    work = out / "hosts"
    if options.ray:
        work = Path(tempfile.gettempdir()) / "vitruvian-batch"
    elif count > 1 and "--cpu" not in line:
        line += ["--cuda-device", str(number - 1)]
    if count > 1:
        line += ["--temp-directory", str((work / f"host-{number}").resolve())]
    installation = Installation(options.comfyui, options.python, tuple(line))
    return functools.partial(
        StartedHost,
        installation,
        work / f"host-{number}.log",
        options.timeout,
        row_limit=options.row_timeout,
    )


def _name_on_ray(starter: Any, number: int) -> str:
    return split_url(starter.args[0])[0] if starter.func is Host else f"ray-{number}"


def _start(
    workers: list[Any], options: argparse.Namespace, needed: bool
) -> list[tuple[Any, dict[str, Any]]]:
    """Start or greet every host; each with the nodes that it knows. A dry run may do without.

    Of several hosts one may be away: it gets rows when it comes.
    """
    pool = ThreadPoolExecutor(len(workers))
    try:
        absences = list(pool.map(_absence, workers))
        present = [worker for worker, absence in zip(workers, absences, strict=True) if not absence]
        if not present:
            raise BadInput("\n".join(map(str, absences)))
        for absence in filter(None, absences):
            tqdm.write(f"{str(absence).partition('. ')[0]}. It gets rows when it comes.")
        return [(worker, worker.info()) for worker in present]
    except (HostGone, RowFailed) as error:
        raise BadInput(f"The host's list of nodes cannot be read: {error}") from None
    except BadInput as error:
        if not options.dry_run or needed:
            raise
        tqdm.write(f"{error}\nWithout a host, only the names and kinds of values are checked.")
        return []
    finally:
        pool.shutdown(wait=False)  # Ctrl-C does not wait for hosts that come up


def _absence(worker: Any) -> HostAway | None:
    """Start or greet a host; return why it does not answer, if so."""
    try:
        worker.start()
    except HostAway as absence:
        return absence
    return None


def _close(workers: list[Any], options: argparse.Namespace) -> None:
    for worker in workers:
        worker.close()
    if options.ray:
        from . import ray_backend

        ray_backend.disconnect()


# Running


def _run(
    options: argparse.Namespace,
    jobs: Plan,
    workers: list[Worker],
    manifest: Manifest,
    absent: set[str],
) -> int:
    remaining = manifest.remaining(jobs)
    done = len(jobs) - len(remaining)
    tqdm.write(f"{len(jobs)} rows, {done} done before; images go to {manifest.out}")
    if corrected := manifest.corrected(jobs):
        numbers = shorten(", ".join(map(str, corrected)), 60)
        tqdm.write(
            f"{len(corrected)} rows have other values than before: {numbers}. When such a "
            "row is done, its images replace those of its earlier values."
        )
    with tqdm(
        total=len(jobs), initial=done, unit="row", dynamic_ncols=True, bar_format=BAR, smoothing=0.1
    ) as bar:
        report = functools.partial(_report, bar)
        patience = Patience(options.retries, options.timeout)
        run = Run(jobs, remaining, workers, manifest, patience, report, absent)
        with _Stopping(run):
            for thread in run.start():
                while thread.is_alive():
                    thread.join(0.2)
    if options.sheet:
        sheet.write_sheet(options.out / sheet.NAME, jobs, manifest)
        tqdm.write(f"All images on one page: {options.out / sheet.NAME}")
    return _sum_up(run, manifest, jobs)


class _Stopping:
    """The first Ctrl-C lets running rows finish, the second ends at once."""

    def __init__(self, run: Run) -> None:
        self.run, self.interrupted = run, False
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _interrupt(self, *_: int | FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        tqdm.write("Finishing the rows that run; Ctrl-C again stops at once.")
        threading.Thread(target=self.run.stop).start()  # a handler must not wait for a lock


def _report(bar: Any, news: dict[str, Any] | str) -> None:
    with contextlib.suppress(OSError):  # the batch goes on when nobody reads: a closed terminal
        _show_news(bar, news)


def _show_news(bar: Any, news: dict[str, Any] | str) -> None:
    if isinstance(news, str):
        tqdm.write(news)
        return
    if news["event"] != "done":
        word = "tried again" if news["event"] == "again" else "FAILED"
        tqdm.write(f"{news['row']}: {word}: {news['error']}")
    if news["event"] != "again":
        bar.update()


def _sum_up(run: Run, manifest: Manifest, jobs: Plan) -> int:
    if run.fault:
        raise run.fault
    done = sum(key in manifest.done for key in jobs.keys)
    missing = len(jobs) - done - run.failures
    summary = f"{done} done, {run.failures} failed"
    if missing:
        summary += f", {missing} not run: the same command with --resume goes on"
    tqdm.write(f"{summary}. The images are in {manifest.out}, their record is {manifest.path}")
    if run.disk_full:
        raise run.disk_full
    if run.stopped():
        return INTERRUPTED
    return SOME_FAILED if run.failures or missing else DONE


def _show(jobs: Plan) -> int:
    """Print what would run."""
    for job in itertools.islice(jobs, LISTED):
        cells = ", ".join(f"{name}={shorten(value)}" for name, value in job.cells.items())
        seeds = ", ".join(map(str, job.seeds())) or "none"
        tqdm.write(f"{job.number:4}  {job.flow.name}  {job.where}: {cells or '-'}  seeds: {seeds}")
    if len(jobs) > LISTED:
        tqdm.write(f"      ... and {len(jobs) - LISTED} more")
    for numbers in jobs.repeated()[:LISTED]:
        first, *copies = (jobs.job(number).where for number in numbers)
        tqdm.write(
            f"Note: {', '.join(copies)} is as {first}: give it another seed or other values."
        )
    tqdm.write(f"Nothing is wrong: {len(jobs)} rows would run.")
    return DONE
