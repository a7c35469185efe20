"""Everything that onnxopt raises on purpose.

OnnxoptError
├── InputError            the user's input is wrong: exit code 2
│   ├── ModelError        a model file cannot be read, or is not a valid model
│   ├── SamplesError      calibration data do not fit the model
│   ├── SpecError         the text of a pipeline is wrong
│   │   └── UnknownPassError
│   └── OutputError       the result cannot be written there
├── ProofError            what was made may not be written: exit code 1
│   ├── ParityError       outputs are not those of the source
│   ├── BudgetError       the score fell by more than --max-drop, or a size cannot be met
│   ├── NoopError         a lossy pass found nothing to do, and the run asks for more
│   ├── UnprovenError     nothing could be compared, and the run asks for a proof
│   └── SlowerError       the result is slower than the source
└── PassError             a pass broke its contract: exit code 1

A message is one line: what, which, and what to do about it. Anything else that is raised is a bug
and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class OnnxoptError(Exception):
    """Base of all errors that onnxopt raises on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(OnnxoptError):
    """Something that the user gave is wrong."""

    exit_code: ClassVar[int] = 2


class ModelError(InputError):
    """A model cannot be read, or is not valid."""


class SamplesError(InputError):
    """Calibration data cannot be read, or do not fit the model."""


class SpecError(InputError):
    """The text of a pipeline is wrong."""


class UnknownPassError(SpecError):
    """No installed distribution declares a pass of that name."""


class OutputError(InputError):
    """The result cannot be written where it should go."""


class ProofError(OnnxoptError):
    """The result does not hold what was promised; nothing is written."""


class ParityError(ProofError):
    """Outputs differ from those of the source by more than rounding explains."""


class BudgetError(ProofError):
    """A budget cannot be kept: what the score may fall by, or what a result may cost."""


class UnprovenError(ProofError):
    """Nothing could be compared, and the run asks for a proof."""


class NoopError(ProofError):
    """A lossy pass changed nothing."""


class SlowerError(ProofError):
    """The result is slower than the source."""


class PassError(OnnxoptError):
    """A pass raised, looped, or reported edits that it did not make."""
