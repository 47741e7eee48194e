"""Files written whole or not at all: bytes, text, JSON, CSV, arrays, folders; and one lock.

Everything that medssl writes comes through here. A file is written under a hidden name of its own,
which no other process can have, in the folder it belongs to, and takes its place when it is
complete. What the disk refuses becomes the one error that a user sees, and nothing half-written
stays behind.
"""

from medssl.files.atomic import (
    check_writable,
    is_leftover,
    move,
    new_file,
    reason_of,
    refusals,
    replacing,
    write_private,
)
from medssl.files.folders import (
    all_or_nothing,
    default_cache_root,
    discard_folder,
    link_or_copy,
    move_in,
    refuse_filled,
    remove_abandoned,
    scratch_folder,
)
from medssl.files.formats import (
    append_line,
    as_line,
    json_text,
    write_array,
    write_arrays,
    write_bytes,
    write_csv,
    write_json,
    write_text,
)
from medssl.files.lock import locked, try_lock

__all__ = [
    "all_or_nothing",
    "append_line",
    "as_line",
    "check_writable",
    "default_cache_root",
    "discard_folder",
    "is_leftover",
    "json_text",
    "link_or_copy",
    "locked",
    "move",
    "move_in",
    "new_file",
    "reason_of",
    "refusals",
    "refuse_filled",
    "remove_abandoned",
    "replacing",
    "scratch_folder",
    "try_lock",
    "write_array",
    "write_arrays",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_private",
    "write_text",
]
