"""What every command that writes a folder shares: whole files or none, one writer per folder, and signals."""

from .atomic import append_line, finite_json, make_folder, read_lines, to_json, write_bytes, write_json, write_text
from .folder import IMAGES, ITERATES, PROGRESS, ROWS, claim_folder, locked, read_record
from .interrupts import Interrupts, Terminated

__all__ = [
    "IMAGES",
    "ITERATES",
    "PROGRESS",
    "ROWS",
    "Interrupts",
    "Terminated",
    "append_line",
    "claim_folder",
    "finite_json",
    "locked",
    "make_folder",
    "read_lines",
    "read_record",
    "to_json",
    "write_bytes",
    "write_json",
    "write_text",
]
