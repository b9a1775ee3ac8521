"""What every command that writes a folder shares: whole files or none, one writer per folder, and signals."""

from .atomic import append_line, make_folder, read_lines, write_bytes, write_json, write_text
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
    "locked",
    "make_folder",
    "read_lines",
    "read_record",
    "write_bytes",
    "write_json",
    "write_text",
]
