"""Metrics on label maps, per case and structure, with their policy, intervals and comparisons."""

from __future__ import annotations

from medssl.evaluation.case_metrics import POLICY, case_columns, evaluate_case
from medssl.evaluation.folders import evaluate_folders
from medssl.evaluation.label_files import read_label
from medssl.evaluation.overlap import (
    confusion_matrix,
    confusion_matrix_tensor,
    dice_per_class,
    iou_per_class,
)
from medssl.evaluation.statistics import PairedResult, paired_bootstrap
from medssl.evaluation.summary import (
    format_table,
    read_cases_csv,
    summarize,
    write_cases_csv,
    write_summary_json,
)

__all__ = [
    "POLICY",
    "PairedResult",
    "case_columns",
    "confusion_matrix",
    "confusion_matrix_tensor",
    "dice_per_class",
    "evaluate_case",
    "evaluate_folders",
    "format_table",
    "iou_per_class",
    "paired_bootstrap",
    "read_cases_csv",
    "read_label",
    "summarize",
    "write_cases_csv",
    "write_summary_json",
]
