"""A table of what `quant.py --json` has written, and three figures that follow from it.

    python benchmarks/quant_table.py results.json

A cell is score; least time over the source's; bytes over the source's. Times within 3 % are equal,
which is what they differ by from run to run; so are bytes. Only what can be told from the table is
counted:

* on how many models no other tool scores higher in equal or less time;
* which tools dominate onnxopt: a score not lower in less time, or a higher one in equal time, and a
  file that is not larger;
* the geometric mean of times, and that of the fastest other file of each model that loses at most
  0.01 of the score (the source itself if none does), chosen in hindsight.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import geometric_mean

Row = dict[str, float]
Models = dict[str, dict[str, Row]]
"""Model -> tool -> bytes, least, score and more."""

EQUAL = 1.03
"""Times whose ratio is below are equal."""

LOSS = 0.01
"""What a file may lose of the score to be counted as one that does the same job."""

OURS = "onnxopt"


def main() -> None:
    """Print the table and the figures."""
    stored = json.loads(Path(sys.argv[1]).read_text())
    models: Models = {title: found["rows"] for title, found in stored.items()}
    tools = list(dict.fromkeys(name for rows in models.values() for name in rows))
    tools = [name for name in tools if name != OURS] + [OURS]
    print("| model: score | " + " | ".join(tools) + " |")
    print("| --- |" + " ---: |" * len(tools))
    for title, rows in models.items():
        print(f"| {title} | " + " | ".join(cell(rows, name) for name in tools) + " |")
    print("\n" + "\n".join(figures(models)))


def cell(rows: dict[str, Row], name: str) -> str:
    """Return what one tool made of one model."""
    row = rows.get(name)
    if row is None:
        return "none"
    if name == "source":
        return f"{row['score']:.4g}"
    return f"{row['score']:.4g}; {row['least']:.2f}; {row['bytes']:.2f}"


def figures(models: Models) -> list[str]:
    """Return a line for each figure."""
    best = sum(not _beaten(rows) for rows in models.values())
    by = [f"{title}: {name}" for title, rows in models.items() for name in _dominating(rows)]
    ours = geometric_mean(rows[OURS]["least"] for rows in models.values())
    hindsight = geometric_mean(_fastest(rows) for rows in models.values())
    lost = max(rows["source"]["score"] - rows[OURS]["score"] for rows in models.values())
    return [
        f"* No tool scores higher in equal or less time on {best} of {len(models)} models.",
        f"* Dominated on: {'; '.join(by) or 'none'}.",
        f"* Geometric mean of times: {ours:.2f}, at most {lost:.4f} of a score lost; the best "
        f"other file of each model, chosen in hindsight: {hindsight:.2f}.",
    ]


def _peers(rows: dict[str, Row]) -> dict[str, Row]:
    return {name: row for name, row in rows.items() if name != OURS}


def _beaten(rows: dict[str, Row]) -> bool:
    ours = rows[OURS]
    fast = [row for row in _peers(rows).values() if row["least"] < ours["least"] * EQUAL]
    return any(row["score"] > ours["score"] for row in fast)


def _dominating(rows: dict[str, Row]) -> list[str]:
    ours = rows[OURS]
    found = []
    for name, row in _peers(rows).items():
        faster = row["least"] * EQUAL < ours["least"] and row["score"] >= ours["score"]
        better = row["least"] < ours["least"] * EQUAL and row["score"] > ours["score"]
        if (faster or better) and row["bytes"] < ours["bytes"] * EQUAL:
            found.append(name)
    return found


def _fastest(rows: dict[str, Row]) -> float:
    least = rows["source"]["score"] - LOSS
    return min(row["least"] for row in _peers(rows).values() if row["score"] >= least)


if __name__ == "__main__":
    main()
