"""
`urisk evaluate`: how good labels are, on sentences that a reader has labeled, beside the cheapest
alternatives. It reads the files, asks the models as a risk table asks, and writes one page a file.
"""

from urisk_nb.evaluate.labeled_files import LabeledFile, read, read_files
from urisk_nb.evaluate.measurement import (
    Evaluation,
    FileEvaluation,
    Stability,
    add_baselines,
    evaluate,
)
from urisk_nb.evaluate.report import as_dict, render_text, write

__all__ = [
    "Evaluation",
    "FileEvaluation",
    "LabeledFile",
    "Stability",
    "add_baselines",
    "as_dict",
    "evaluate",
    "read",
    "read_files",
    "render_text",
    "write",
]
