"""A linter for model files: rules by group, settings of a project, and repair by exact passes."""

from __future__ import annotations

from onnxopt.check.finding import Finding, Level, Rule
from onnxopt.check.run import check, models
from onnxopt.check.settings import Budgets, Settings

__all__ = ["Budgets", "Finding", "Level", "Rule", "Settings", "check", "models"]
