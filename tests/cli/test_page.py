"""The page of a report: its figures are those of the JSON, in a browser too; it stands alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from onnxopt.cli import reports
from onnxopt.cli.page import figures, render_report, view
from onnxopt.report import _plain

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here; .ci/run installs none")


class Reader(HTMLParser):
    """Collects figures, the embedded JSON, ids, and addresses that a page would load."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.figures: list[list[str]] = []
        self.data = ""
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self._open = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self._open = {"fig": "figure"}.get(given.get("class"), "")
        if self._open:
            self.figures.append([given["data-key"], given["data-form"], ""])
        if given.get("id") == "data":
            self._open = "data"
        if tag == "a":
            self.targets.append(given["href"])
        elif "src" in given or "href" in given:
            self.loaded.append(given.get("src") or given["href"])

    def handle_data(self, data):
        if self._open == "figure":
            self.figures[-1][2] += data
        elif self._open == "data":
            self.data += data

    def handle_endtag(self, tag):
        self._open = ""


def verify(page: str) -> None:
    """Check that all figures of a page are those of the JSON in it."""
    found = Reader(page)
    data = json.loads(found.data)
    assert len(found.figures) > 20
    for key, form, text in found.figures:
        assert text == figures.FORMS[form](figures.lookup(data, key)), key


@pytest.fixture
def page(cli) -> str:
    assert cli("run", "model.onnx", "--calib", "data.npz", "--report", "r.html").code == 0
    return Path("r.html").read_text()


@pytest.fixture
def report(cli) -> dict:
    assert cli("run", "model.onnx", "--calib", "data.npz", "--report", "r.json").code == 0
    return json.loads(Path("r.json").read_text())


def test_figures_are_those_of_the_json(page):
    verify(page)


def test_the_page_loads_nothing(page):
    found = Reader(page)
    assert [a for a in found.loaded if not a.startswith("data:")] == []
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


def test_links_lead_to_sections_and_ids_are_unique(page):
    found = Reader(page)
    assert {t.removeprefix("#") for t in found.targets} <= set(found.ids)
    assert len(set(found.ids)) == len(found.ids)


def test_the_page_says_what_was_done_and_whether_to_trust_it(page):
    for words in (
        "the same outputs", "Can it be trusted?", "4 samples that no pass has seen", "noise floor",
        "What was done", "Where time goes", "All 4 nodes before", "No pass had to leave",
    ):  # fmt: skip
        assert words in page


def test_an_unproven_run_says_so_first(cli):
    cli("run", "custom.onnx", "--report", "r.html")
    page = Path("r.html").read_text()
    verify(page)
    assert 'class="verdict unproven"' in page
    assert "NOT PROVEN" in page
    assert "Outputs not compared" in page


def test_drawn_inputs_are_marked(cli):
    cli("run", "model.onnx", "--report", "r.html")
    assert "On 6 inputs drawn at random, as written" in Path("r.html").read_text()


def test_report_makes_the_same_page_later(cli, report, page):
    done = cli("report", "r.json", "-o", "later.html")
    assert done.out == "wrote later.html\n"
    verify(Path("later.html").read_text())
    assert cli("report", "r.json").out == "wrote r.html\n"


def test_what_json_prints_makes_a_page_without_details(cli):
    Path("j.json").write_text(cli("run", "model.onnx", "--json").out)
    assert cli("report", "j.json").code == 0
    page = Path("j.html").read_text()
    verify(page)
    assert "made without details" in page


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "is no report of onnxopt run"),
        ('{"schema_version": 9, "steps": [], "proof": {}}', "has schema version 9"),
        ('{"schema_version": 1, "steps": [], "proof": {}}', "is no complete report"),
    ],
)
def test_what_is_no_report_is_one_line(cli, text, said):
    Path("r.json").write_text(text)
    assert said in cli("report", "r.json").error(2)
    assert not Path("r.html").exists()


def test_a_report_replaces_no_model(cli, report):
    assert "would replace" in cli("report", "r.json", "-o", "r.json").error(2)
    assert "would replace" in cli("inspect", "model.onnx", "--html", "model.onnx").error(2)
    assert "no folder" in cli("report", "r.json", "-o", "no/r.html").error(2)


def lossy(report: dict) -> dict:
    """Return the report of a run that quantized and pruned, and met names that are no text."""
    (layer,) = [n for n in report["detail"]["nodes"]["after"] if "weight" in n]
    layer["width"] = 3
    layer["weight"]["dtype"] = "int8"
    wicked = "</script><script>document.title='broken'</script>"
    report["untouched"] = [{"pass": "prune", "name": wicked, "reason": f"frozen by {wicked}"}] * 2
    report["notes"] = [wicked]
    report["proof"].update(metric="accuracy", value=0.97, drop=0.003, drop_error=0.002)
    step = report["steps"][-1]
    step["undone"], step["reasons"] = ["rule@node"], ["outputs differ"]
    plan = {"nodes": {"mixed": "integers"}, "noise": {"mixed": 0.0125}}
    groups = [
        {"name": "g", "members": ["a", "b", "c", "d"], "before": 8, "after": 6, "error": 0.25}
    ]
    held = {"groups": 2, "inputs": 4, "max_drift": 1.5e-7}
    step["evidence"] = {"static": plan, "certificate": held, "groups": groups}
    report["proof"]["certificate"] = {"prune": held}
    return report


def test_widths_types_and_evidence(report):
    page = render_report(lossy(report))
    verify(page)
    for words in (
        "3 of 4", ">int8<", "accuracy lower by 0.0030", "groups", "outputs differ", "rule@node",
        "Within the budget", "computed in integers", "11.18%", "the score decides",
        "on 4 inputs, to 1.5e-07", "<td>8</td><td>6</td><td>0.25</td><td>a, b, c and 1 more</td>",
    ):  # fmt: skip
        assert words in page
    assert "</script><script>document" not in page


def test_few_samples_are_a_matter_of_care(report):
    proof = {"samples": 51, "drop_error": 0.0588, "samples_needed": 300, "foreseen": 0.004}
    report = lossy(report)
    report["proof"].update(proof)
    page = render_report(report)
    assert "Within the budget, on few samples" in page
    assert "takes 300 held out, so about 1,500 given" in page
    assert "51 samples cannot tell a drop below 0.0588 from none (by the margins of classes" in page
    del (
        report["proof"]["samples_needed"],
        report["proof"]["foreseen"],
        report["proof"]["most_scored"],
    )
    report["proof"]["drop_error"] = None
    assert "One sample cannot tell" in render_report(report)
    report["proof"]["drop_error"] = 0.05
    assert "and no more is proven" in render_report(report)


def test_evidence_of_any_kind_becomes_json():
    @dataclass
    class Kept:
        layers: set[str]
        noise: np.ndarray

    found = _plain({"a": Kept({"y", "x"}, np.array([0.5, np.nan])), 3: (np.int64(1), True)})
    assert json.loads(json.dumps(found)) == {
        "a": {"layers": ["x", "y"], "noise": [0.5, None]}, "3": [1, True],
    }  # fmt: skip


def test_what_the_checker_does_not_vouch_for_is_said(report):
    assert view.trust(report)[0]["ok"] is True
    report["proof"]["objection"] = "opset 99 is newer than this onnx knows; it is not checked"
    first = view.trust(report)[0]
    assert (first["ok"], first["why"]) == (None, report["proof"]["objection"])


def test_an_objection_of_the_checker_reaches_the_report(cli, make):
    make("odd.onnx", "g (float[2] x) => (float[3] y) { y = Relu(x) }")
    found = cli("run", "odd.onnx", "--json").json
    assert "onnx.checker objects to the source" in found["proof"]["objection"]
    assert cli("run", "model.onnx", "--json").json["proof"]["objection"] is None


def test_nodes_are_marked_by_what_became_of_them(report):
    marks = view.graphs(report)
    assert {n["name"]: n["mark"] for n in marks["before"]}["same"] == "gone"
    assert {n["mark"] for n in marks["after"]} <= {"kept", "changed", "new"}


def test_inspect_makes_a_page(cli):
    page = cli("inspect", "model.onnx", "--html", "i.html").page
    assert page.endswith("wrote i.html")
    found = Reader(Path("i.html").read_text())
    assert json.loads(found.data)["nodes"] == 4
    assert len(found.figures) > 5


def chromium(path: Path, *options: str) -> tuple[str, str]:
    """Return the page as a browser has it after its scripts ran, and what the browser logged."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=2000", "--dump-dom",
        *options, path.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


@browser
def test_a_browser_opens_it_without_errors(report, folder):
    path = folder / "r.html"
    reports.write(path, lossy(report))
    dom, log = chromium(path)
    assert "CONSOLE" not in log, log
    assert "<title>model.onnx" in dom
    assert dom.count('type="search"') == 2
    verify(dom)


@browser
def test_searching_hides_other_nodes(page, folder):
    script = (
        "<script>const s = document.querySelector('input[type=search]'); s.value = 'matmul';"
        " s.dispatchEvent(new Event('input'))</script></body>"
    )
    path = folder / "searched.html"
    path.write_text(page.replace("</body>", script))
    dom, _ = chromium(path)
    assert ">1 of 4</output>" in dom
    rows = re.search(r'id="nodes-before".*?</table>', dom, re.S)
    assert rows is not None
    assert rows[0].count('hidden=""') == 3
