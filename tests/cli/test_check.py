from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxopt.check.rules import RULES

HEAVY = ("onnxruntime", "rich", "networkx", "onnxopt.runtime", "onnxopt.model.importer")


@pytest.fixture(autouse=True)
def three(make, folder) -> None:
    """Leave a model with waste, a sound one and a broken one in the folder `models`."""
    Path("models").mkdir()
    shutil.move("model.onnx", "models/waste.onnx")
    Path("custom.onnx").unlink()
    make("models/sound.onnx", "g (float[8] x) => (float[8] y) { y = Relu(x) }")
    make("models/broken.onnx", "g (float[8] x) => (float[8] y) { y = Relu(z) }")


def test_text(cli):
    done = cli("check", "models")
    assert done.code == 1
    lines = done.out.splitlines()
    assert lines[0] == (
        "models/broken.onnx: OPT006 y: input 0 of this Relu is 'z', which nothing produces"
    )
    assert lines[1] == "models/waste.onnx: OPT206 [*] same: this Identity hands on what it gets"
    assert lines[3:] == [
        "2 problems in 3 models",
        "[*] 1 may be mended with --fix; --diff shows how",
        "more on a rule: onnxopt check --explain OPT006",
    ]


def test_nothing_wrong(cli):
    assert cli("check", "models/sound.onnx").page == "no problem in 1 model"


def test_the_current_folder_is_the_default(cli):
    assert cli("check").out == cli("check", ".").out
    assert "3 models" in cli("check").out


def test_notes_do_not_fail(cli, make):
    weight = np.ones((8, 50_000), np.float32)
    make("big.onnx", "g (float[1,8] x) => (float[1,50000] y) { y = MatMul(x, w) }", w=weight)
    done = cli("check", "big.onnx")
    assert done.code == 0
    assert "OPT207 note: 400,000 weights are float32" in done.out
    assert "no problem in 1 model, 1 note" in done.out


def test_json(cli):
    done = cli("check", "models", "--output-format", "json")
    assert (done.code, done.json["files"], done.json["problems"]) == (1, 3, 2)
    first = done.json["findings"][0]
    assert (first["code"], first["level"], first["fixable"]) == ("OPT006", "error", False)
    assert first["where"] == "y"


def test_github(cli, make):
    make("models/a,b.onnx", "g (float[8] x) => (float[8] y) { y = Relu(w) }")
    lines = cli("check", "models", "--output-format", "github").out.splitlines()
    assert lines[0].startswith("::error file=models/a%2Cb.onnx,title=onnxopt OPT006 dangling::y: ")
    assert lines[-1].startswith("::warning file=models/waste.onnx,")


def test_sarif(cli):
    found = cli("check", "models", "--output-format", "sarif").json
    assert found["version"] == "2.1.0"
    (run,) = found["runs"]
    rules = run["tool"]["driver"]["rules"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert Path(place).exists()


def test_select_and_ignore(cli):
    assert cli("check", "models", "--select", "OPT3,OPT4").code == 0
    done = cli("check", "models", "--ignore", "OPT006", "--ignore", "opt2")
    assert done.code == 0
    assert "begins with 'OPT9'" in cli("check", "models", "--select", "OPT9").error(2)


def test_budgets_come_from_pyproject_and_options_override_them(cli):
    Path("pyproject.toml").write_text('[tool.onnxopt]\nmax-bytes = 10\nignore = ["OPT2"]\n')
    assert "OPT501" in cli("check", "models/sound.onnx").out
    assert cli("check", "models/sound.onnx", "--max-bytes", "1 MB").code == 0
    assert "--max-bytes must be" in cli("check", "models", "--max-bytes", "much").error(2)
    assert cli("check", "models/waste.onnx", "--max-bytes", "1MB").code == 0


def test_fix_mends_what_it_can(cli):
    before = Path("models/broken.onnx").read_bytes()
    done = cli("check", "models", "--fix")
    assert done.code == 1
    assert "models/waste.onnx: mended, 1 edit, proven" in done.out
    assert "1 problem in 3 models" in done.out
    assert Path("models/broken.onnx").read_bytes() == before
    ops = [n.op_type for n in onnx.load("models/waste.onnx").graph.node]
    assert "Identity" not in ops
    assert cli("check", "models/waste.onnx", "--fix").code == 0
    assert sorted(p.name for p in Path("models").iterdir()) == [
        "broken.onnx", "sound.onnx", "waste.onnx",
    ]  # fmt: skip


def test_fix_sorts(cli, make):
    make("models/late.onnx", "g (float[8] x) => (float[8] y) { y = Relu(a) a = Abs(x) }")
    assert cli("check", "models/late.onnx").code == 1
    assert cli("check", "models/late.onnx", "--fix").code == 0
    assert [n.op_type for n in onnx.load("models/late.onnx").graph.node] == ["Abs", "Relu"]


def test_fix_says_what_it_could_not_prove(cli, make):
    make("custom.onnx", "g (float[8] x) => (float[8] y) { d = Exp(x) y = my.Unknown(x) }")
    before = Path("custom.onnx").read_bytes()
    done = cli("check", "custom.onnx", "--fix", "--ignore", "OPT102")
    assert done.code == 1
    assert "custom.onnx: not changed: not proven, so left as it is" in done.out
    assert Path("custom.onnx").read_bytes() == before


def test_diff_writes_nothing(cli):
    before = Path("models/waste.onnx").read_bytes()
    done = cli("check", "models", "--diff")
    assert done.code == 1
    assert "-same = Identity(x)" in done.out
    assert Path("models/waste.onnx").read_bytes() == before
    assert cli("check", "models/sound.onnx", "--diff").out == "nothing to mend\n"
    assert "exclude each other" in cli("check", "models", "--fix", "--diff").error(2)


def test_explain(cli):
    out = cli("check", "--explain", "OPT203").out
    assert out.startswith("OPT203 dead-node (level warning, mended by --fix)\n\nNobody reads")
    assert cli("check", "--explain", "dead-node").out == out
    everything = cli("check", "--explain", "all").out
    assert all(f"  {r.code} " in everything for r in RULES)
    assert "no rule has the code" in cli("check", "--explain", "OPT999").error(2)


def test_bad_usage(cli):
    assert "there is no file none.onnx" in cli("check", "none.onnx").error(2)
    Path("empty").mkdir()
    assert "no .onnx file is in empty" in cli("check", "empty").error(2)
    assert "there is no settings file" in cli("check", "models", "--config", "x.toml").error(2)


def test_nothing_heavy_is_imported():
    code = (
        "import sys\n"
        "from onnxopt.cli import main\n"
        "try:\n    main(['check', 'models/sound.onnx'], prog_name='onnxopt')\n"
        "except SystemExit:\n    pass\n"
        f"print(*(m for m in {HEAVY!r} if m in sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""
    assert "no problem in 1 model" in done.stdout


def test_machine_formats_stay_whole_with_fix(cli):
    done = cli("check", "models", "--fix", "--output-format", "json")
    assert json.loads(done.out)["problems"] == 1
    assert "mended" in done.err
