"""The report as one HTML file that a person opens: no network, and readable without scripts.

A policy in its head forbids it to load anything. The JSON that it was made from is inside it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from onnxopt.cli.page import charts, figures, lanes, layers, view

if TYPE_CHECKING:
    from jinja2 import Environment

    Facts = dict[str, Any]


def render_report(report: Facts) -> str:
    """Return the page of a run.

    Args:
        report: As `--json` gives it; without `detail` the page has the figures alone.
    """
    page = _environment(report).get_template("report.html")
    return page.render(
        report=report,
        headline=view.headline(report),
        trust=view.trust(report),
        stages=view.stages(report),
        widths=view.widths(report),
        precision=layers.precision(report),
        evidence=layers.evidence(report),
        kernels=view.kernels(report),
        graphs=view.graphs(report),
        ops=view.operators(report),
        untouched=view.untouched(report),
        undone=view.undone(report),
        embedded=_embedded(report),
    )


def render_inspect(found: Facts) -> str:
    """Return the page of a model, from what `onnxopt inspect --json` gives and its nodes."""
    page = _environment(found).get_template("inspect.html")
    return page.render(found=found, embedded=_embedded(found))


def _environment(found: Facts) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("onnxopt.cli", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figures.FORMS)
    environment.globals["figure"] = figures.Figures(found)
    environment.globals["charts"] = charts
    environment.globals["lanes"] = lanes
    return environment


def _embedded(found: Facts) -> str:
    """Return JSON that may stand in a script element, whatever names it holds."""
    text = json.dumps(found, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
