"""
`urisk evaluate`: how good labels are, on sentences that a reader has labeled, and whether they are
better than the cheapest alternatives. It asks the models as a risk table does, and writes one page
for each file.
"""

from urisk_nb.evaluate.labeled_files import LabeledFile, read, read_files, read_overrides
from urisk_nb.evaluate.measurement import (
    Evaluation,
    FileEvaluation,
    Stability,
    add_baselines,
    check_models,
    evaluate,
)
from urisk_nb.evaluate.page import render_text
from urisk_nb.evaluate.results import as_dict, write

__all__ = [
    "Evaluation",
    "FileEvaluation",
    "LabeledFile",
    "Stability",
    "add_baselines",
    "as_dict",
    "check_models",
    "evaluate",
    "read",
    "read_files",
    "read_overrides",
    "render_text",
    "write",
]
