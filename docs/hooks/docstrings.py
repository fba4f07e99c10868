"""How this project's docstrings are read for the API pages."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
_TOGETHER = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Let griffe see "Example:", and parameters that are described together: "mean, std: per channel"."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object for griffe's parser."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(r"\1Examples:", obj.docstring.value)
            obj.docstring.value = _TOGETHER.sub(_each, text)


def _each(found: re.Match[str]) -> str:
    names = found["names"].split(", ")
    return "\n".join(f"{found['indent']}{name}: {found['text']}" for name in names)
