"""The developer's one entry: `python3 dev.py demo`, `python3 dev.py test`, and the rest in --help.

Needs only the standard library and does its own set-up, in the user's cache (~/.cache/vitruvian):
  env-<hash>         the developers' pins (tests/requirements.txt), named by their hash
  env-<hash>-<hash>  a thin layer on it with what one version of ComfyUI requires
  ComfyUI-<version>  the host, unless COMFYUI_PATH names one
  fresh-<version>-<hash>  what a user of ComfyUI has, for `dev.py fresh`
  base-<hash>        this checkout's private ComfyUI folders: input, output, models, custom_nodes
What the commands do is in tools/. Linux and macOS.
"""

import argparse
import importlib
import importlib.util
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def load_pack() -> None:
    """Import this checkout as the package `vitruvian`, whatever its folder is called.

    Its rooms must not be importable under their bare names: ComfyUI owns the name `nodes`.
    """
    if "vitruvian" in sys.modules:
        return
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != ROOT]
    spec = importlib.util.spec_from_file_location(
        "vitruvian", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["vitruvian"] = module
    spec.loader.exec_module(module)


EXAMPLES = """examples:
  python3 dev.py demo two_people                     an example workflow, and where its images are
  python3 dev.py demo photo_to_person --photo me.jpg
  python3 dev.py test tests/models -q -k pose        some tests, with pytest's options
  python3 dev.py test --require-host --host v0.3.64  all of them on the oldest ComfyUI
  python3 dev.py bench persons --quick --json numbers.json
  python3 dev.py serve --port 8190                   ComfyUI with the pack, until Ctrl-C
  python3 dev.py batch check person.json people.csv  what would go wrong with a batch
  python3 dev.py fresh 3.13                          a new installation, as a user makes it
  python3 dev.py train hands --help                  what a trainer takes
  python3 dev.py layout two_people                   place an example's nodes, led wires and all
  python3 dev.py thumbnails two_people               its thumbnail, of what it generates
  python3 dev.py help-images ApplyAppearance         the image of a help page, of the examples
  python3 dev.py blueprints                          after a change of the examples
  python3 dev.py lint"""


def parser() -> argparse.ArgumentParser:
    """Build the command line: a parser for every module of tools/commands."""
    main_parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else "",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, purpose: str, *, host: bool = True, help: bool = True):
        examples = [line.strip() for line in EXAMPLES.splitlines() if f"dev.py {name}" in line]
        command = commands.add_parser(
            name,
            help=purpose,
            description=f"{purpose[0].upper()}{purpose[1:]}.",
            epilog="\n  ".join(["examples:", *examples]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=help,
        )
        if host:
            command.add_argument("--host", metavar="VERSION", help="ComfyUI's tag, such as v0.33.0")
        return command

    demo = add("demo", "run a workflow on ComfyUI with the pack, print where its images are")
    demo.add_argument("workflow", nargs="?", default="photo_to_person")
    demo.add_argument("--photo", metavar="FILE", help="whose pose to take")
    test = add("test", "run the tests; those that need ComfyUI are left out if there is none")
    test.add_argument("--require-host", action="store_true", help="fail without ComfyUI")
    bench = add("bench", "run a benchmark and write its numbers as JSON")
    bench.add_argument("name")
    bench.add_argument("--quick", action="store_true", help="fewer scenes, under 3 minutes")
    bench.add_argument(
        "--keep", metavar="FOLDER", help="keep the generated images, and go on from those there"
    )
    bench.add_argument("--json", metavar="FILE", required=True)
    serve = add("serve", "start ComfyUI with the pack and leave it running until Ctrl-C")
    serve.add_argument("--port", type=int, default=8188)
    add("batch", "run saved workflows over a table (batch/README.md)", help=False)
    fresh = add("fresh", "install the pack as a user does, with several Pythons, and try it")
    fresh.add_argument("pythons", nargs="*", metavar="PYTHON", help="such as 3.12 (all)")
    fresh.add_argument("--renew", action="store_true", help="take the newest of all packages")
    layout = add("layout", "place the nodes of example workflows so that they open readable")
    layout.add_argument("names", nargs="*", metavar="EXAMPLE", help="all, if none is named")
    thumbnails = add("thumbnails", "run the examples and make their thumbnails of the results")
    thumbnails.add_argument("names", nargs="*", metavar="EXAMPLE", help="all, if none is named")
    help_images = add("help-images", "make the images of the help pages of the examples")
    help_images.add_argument("names", nargs="*", metavar="NODE", help="all, if none is named")
    train = add("train", "run a trainer (mini: all mini weights; everything: on a GPU)", host=False)
    train.add_argument("name")
    train.add_argument("arguments", nargs=argparse.REMAINDER)
    add("blueprints", "make subgraphs/ anew from the example workflows", host=False)
    add("lint", "check style and types, and count what the house limits", host=False)
    return main_parser


def main() -> int:
    """Run one command; its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers are stopped too
    command_line = parser()
    options, arguments = command_line.parse_known_args()
    if options.command in ("batch", "test"):  # which hand them on
        options.arguments = arguments
    elif arguments:
        command_line.error(f"unknown arguments: {' '.join(arguments)}")
    load_pack()
    trouble = importlib.import_module("vitruvian.batch.vitruvian_batch.trouble")
    command = importlib.import_module(
        f"vitruvian.tools.commands.{options.command.replace('-', '_')}"
    )
    try:
        return command.run(options)
    except trouble.Trouble as error:
        sys.exit(str(error))


if __name__ == "__mp_main__":  # a worker process of a trainer, which looks for the same package
    load_pack()

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
