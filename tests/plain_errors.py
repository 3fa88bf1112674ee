"""What no error of the pack says: words of Python, which an artist need not know."""

import re

PYTHON = re.compile(
    r"\b(?:None|NoneType|True|False|tuple|dict|dtype|ndarray|state_dict|torch\.\w+|torch"
    r"|(?:Key|Type|Index|Attribute|Value|Runtime)Error|Errno|literal|embed_dim"
    r"|(?:u?int|b?float)(?:8|16|32|64)?|str|bool|param|checkpoint, the shape)\b"
    r"|(?<![\w.])__\w+__|\bof the type\b|\bthe shape\b|\[\d+(?:, \d+)*\]|b'"
)


def python_words(text):
    """List the words of Python in an error."""
    return PYTHON.findall(text)
