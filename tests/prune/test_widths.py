"""Steps are read off times, measured once, and give the widths that are allowed."""

import pytest

from onnxopt_passes.prune import widths
from onnxopt_passes.prune.widths import allowed, smallest_paying


@pytest.mark.parametrize(
    ("times", "step"),
    [
        ({64: 1.0, 62: 1.4, 60: 1.0, 56: 1.0, 48: 0.6}, 16),
        ({64: 1.0, 62: 1.4, 60: 0.98, 56: 0.8, 48: 0.65}, 8),
        ({64: 1.0, 62: 1.4, 60: 0.9, 56: 0.8, 48: 0.65}, 4),
        ({64: 1.0, 62: 0.95, 60: 0.9, 56: 0.8, 48: 0.65}, 1),
        ({64: 1.0, 62: 1.0, 60: 1.0, 56: 1.0, 48: 1.0}, 32),
    ],
)
def test_the_smallest_step_that_pays(times, step):
    assert smallest_paying(times, 64) == step


def test_allowed_widths():
    assert allowed(40, 16, 1) == (16, 32, 40)
    assert allowed(8, 16, 1) == (8,)
    assert allowed(8, 1, 5) == (5, 6, 7, 8)
    assert allowed(32, 16, 1, droppable=True) == (0, 16, 32)


def test_narrow_groups_have_finer_steps():
    assert [widths.fine(size, 16) for size in (8, 16, 32, 64, 128)] == [4, 4, 8, 16, 16]
    assert widths.fine(16, 1) == 1


@pytest.mark.parametrize("family", sorted(widths.FAMILIES))
def test_a_family_is_measured_once(family, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(widths, "SECONDS", 0.01)
    found = widths.step(family)
    assert found in (1, *widths.STEPS[1:], widths.COARSEST)
    monkeypatch.setattr(widths, "_times", lambda *_: pytest.fail("measured again"))
    assert widths.step(family) == found
