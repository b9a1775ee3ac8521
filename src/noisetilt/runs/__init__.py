"""What every command that writes a folder shares: whole files or none, one writer per folder, and signals."""

from .atomic import append_line, finite_json, make_folder, read_lines, to_json, write_bytes, write_json, write_text
from .folder import BATCH_REPORT, IMAGES, ITERATES, PROGRESS, ROWS, check_folder, claim_folder, locked, read_record
from .interrupts import Interrupts, Terminated, finished_parts, says_what_is_kept

__all__ = [
    "BATCH_REPORT",
    "IMAGES",
    "ITERATES",
    "PROGRESS",
    "ROWS",
    "Interrupts",
    "Terminated",
    "append_line",
    "check_folder",
    "claim_folder",
    "finished_parts",
    "finite_json",
    "locked",
    "make_folder",
    "read_lines",
    "read_record",
    "says_what_is_kept",
    "to_json",
    "write_bytes",
    "write_json",
    "write_text",
]
