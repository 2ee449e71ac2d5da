"""What is in plain data: places that cannot be compared, and those that older forms of a manifest do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainlab.runs.manifest.fingerprints import OfVariable

# The key of what no two processes can agree on; its value says why.
NOT_COMPARED = "not compared"
# Keys of the third form: which of the parts of a model it is, and what Keras' own `get_config` does not say.
WHICH, LEFT_OUT = "which one", "left out by Keras"
_NEW_KEY = re.compile(f', "{WHICH}": \\d+')


def not_compared(why: str) -> dict[str, str]:
    """The record of something that no two processes can agree on."""
    return {NOT_COMPARED: why}


def reasons(record: Any) -> Iterator[str]:
    """What of a record cannot be compared, by place."""
    for place, item in record.items() if isinstance(record, dict) else enumerate(record) if isinstance(record, list) else ():
        if place == NOT_COMPARED:
            yield item
        elif isinstance(item, dict) and NOT_COMPARED in item:
            yield f"{place}: {item[NOT_COMPARED]}"
        else:
            yield from reasons(item)


def comparable(record: Any) -> Any:
    """The rest of it, as the second form had it: what is set while training may be there or not; variables are told apart."""
    if isinstance(record, OfVariable):
        return None
    if isinstance(record, dict):
        is_kept = {k: k not in (WHICH, LEFT_OUT) and not (isinstance(v, dict) and NOT_COMPARED in v) for k, v in record.items()}
        return {_NEW_KEY.sub("", key): comparable(item) for key, item in record.items() if is_kept[key]}
    return [comparable(item) for item in record] if isinstance(record, list) else record


def of_variables(record: Any) -> Iterator[str]:
    """What variables in it hold."""
    for item in record.values() if isinstance(record, dict) else record if isinstance(record, list) else ():
        if isinstance(item, OfVariable):
            yield item
        else:
            yield from of_variables(item)


def new_in(record: Any) -> list[Any]:
    """What the third form has besides."""
    if isinstance(record, list):
        return [part for item in record for part in new_in(item)]
    if not isinstance(record, dict):
        return []
    own = [[key, comparable(item)] for key, item in sorted(record.items()) if key in (WHICH, LEFT_OUT) or _NEW_KEY.search(key)]
    return own + [part for _, item in sorted(record.items()) for part in new_in(item)]


def as_in_second_form(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a row, by place, that the second form of a manifest has, under its places."""
    new = re.compile(rf"(^|\.)({WHICH}|{LEFT_OUT})(\.|\[|$)")
    return {_NEW_KEY.sub("", place): item for place, item in leaves.items() if not new.search(place)}


def renamed(value: Any, names: Mapping[str, str]) -> Any:
    """The same, with names, or parts of paths, replaced; keys stay."""
    if isinstance(value, str):
        return "/".join(names.get(part, part) for part in value.split("/"))
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    if isinstance(value, dict):
        return {key: renamed(item, names) for key, item in value.items()}
    return value
