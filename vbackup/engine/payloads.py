"""What payloads hold: every scalar by the path that a link would name it with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from vbackup.model.keys import canonical
from vbackup.model.link import JSON_STEP

DEPTH = 3
"""Steps of a path; text that holds a JSON object has as many below it."""
LONGEST = 200
"""Characters of a value that may be a key or a version; longer ones are content."""
_LONGEST_JSON = 1 << 16


def scalars(payload: Mapping[str, object]) -> dict[str, str]:
    """The canonical texts of the integers and short strings of a payload by their paths, in the
    spelling of `PayloadPath.parse`. Names that no path can spell are left out, as lists are."""
    return dict(_walk(payload, "", DEPTH))


def _walk(values: Mapping[str, object], prefix: str, depth: int) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if not name or "." in name or JSON_STEP in name:
            continue
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            if depth > 1:
                yield from _walk(value, f"{path}.", depth - 1)
        elif isinstance(value, str) and value[:1] == "{":
            yield from _walk(_parsed(value), f"{path}{JSON_STEP}.", DEPTH)
        elif isinstance(value, (str, int)) and not isinstance(value, bool):
            text = canonical(value)
            if text and len(text) <= LONGEST:
                yield path, text


def _parsed(text: str) -> Mapping[str, object]:
    """The JSON object that a text holds; an empty one when it holds none."""
    if len(text) > _LONGEST_JSON:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
