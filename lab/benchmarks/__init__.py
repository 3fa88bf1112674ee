"""One module per table, each with `run(quick: bool) -> dict[str, float]`.

`dev.py bench NAME --json FILE` runs it and writes the numbers down.
"""
