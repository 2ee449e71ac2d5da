"""Results on disk: whole or not there, and believed only as they were written."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

from trainlab.runs.disk.files import write_atomically

_DIGEST, _RESULT = "digest", "result"


def load(path: Path) -> Any:
    """What `save` wrote; None where it has to be found out: nothing is there, or what is there is another thing by now.

    Of the latter it warns. Files of 0.3 and before have nothing that tells, and are taken as they are.

    Args:
        path: of the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "target.json"
        >>> load(path)
        >>> save(path, {"value": 0.5})
        >>> load(path)
        {'value': 0.5}
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    if isinstance(found, dict) and set(found) != {_DIGEST, _RESULT}:
        return found
    if isinstance(found, dict) and found[_DIGEST] == digest(found[_RESULT]):
        return found[_RESULT]
    warnings.warn(f"{path}: is not what was written there; it is found out again, and written anew", stacklevel=2)
    return None


def save(path: Path, value: Any) -> None:
    """Writes what `load` is to return.

    Args:
        path: of the file.
        value: a dictionary that JSON holds.

    Raises:
        OSError: it cannot be written.
    """
    text = json.dumps({_RESULT: value, _DIGEST: digest(value)}, allow_nan=False) + "\n"
    write_atomically(path, lambda aside: aside.write_text(text, encoding="utf-8"))


def digest(value: Any) -> str:
    """A checksum of what JSON holds, however it is written."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
