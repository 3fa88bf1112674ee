"""Read the format that ComfyUI's front end saves: open it, convert it, fill it with a row.

graph.py      the nodes and wires          file.py        read out of a file, nothing on trust
widgets.py    what a class shows           open.py        with all inputs and values
promoted.py   widgets on a subgraph's node primitive.py   one value for several widgets
convert.py    to the API format            text.py        {a|b} and %tokens%
fields.py     where each value is saved    fill.py        a row's values at their widgets
"""
