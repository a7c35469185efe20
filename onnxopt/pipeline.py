"""The only loop: run a pass on a copy, prove the copy, keep it or find what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxopt import cost, spec
from onnxopt.attempt import Attempt
from onnxopt.errors import ModelError, SamplesError, UnprovenError
from onnxopt.job import Job, Run, Step
from onnxopt.proof import Proof
from onnxopt.structure import validate

if TYPE_CHECKING:
    from onnxopt.model import Exported, Model
    from onnxopt.samples import Samples


def run(model: Model, job: Job, samples: Samples | None) -> Run:
    """Run passes over a model, each proven before the next one starts.

    Args:
        model: Not changed.
        job: What to do.
        samples: Real samples; None to draw inputs.

    Raises:
        ModelError: The source is not valid.
        SamplesError: A pass needs samples that the run does not have.
        ProofError: The result may not be written.
        PassError: A pass broke its contract.
    """
    job.progress("reading", 0.0)
    calibration, holdout = (None, None) if samples is None else samples.split(seed=job.terms.seed)
    _demand_samples(job, calibration)
    source = model.export()
    try:
        note = validate(source, job.terms.custom_ops)
    except ModelError as e:
        raise ModelError(f"{model.path}: {e}" if model.path else str(e)) from e
    job.progress("measuring the source", 0.0)
    proof = Proof(source, holdout, job.terms)
    _demand_proof(job, proof)
    before = cost.measure(source, proof.first_feed())
    steps: list[Step] = []
    stages: list[Exported] = []
    current, counts = source, before
    for number, item in enumerate(job.passes):
        job.progress(spec.render(item), number / len(job.passes))
        current, step = Attempt(item, current, counts, job, proof, calibration).proven(model)
        counts = step.cost
        steps.append(step)
        if job.staged:
            stages.append(current)
        if not item.exact and step.edits and number + 1 < len(job.passes):
            proof.rebase(current)
    job.progress("done", 1.0)
    return Run(
        source,
        current,
        before,
        tuple(steps),
        proof,
        tuple(_notes(note, proof)),
        tuple(stages),
        note,
        job.passes,
    )


def _notes(note: str, proof: Proof) -> list[str]:
    """Return what the report should say of the source and of the proof."""
    floors = {} if proof.unproven else proof.noise.floors
    noisy = [
        f"output {name!r} of the source differs by {floors[name][0]:.2g} of its scale between"
        " onnxruntime's own levels on these inputs: comparing it proves little; give real samples"
        for name in (proof.noise.noisy if floors else ())
    ]
    return [note, *noisy] if note else noisy


def _demand_samples(job: Job, calibration: Samples | None) -> None:
    """Refuse before any work what would have to be refused after it."""
    for item in job.passes:
        if not item.calibrated and item.exact:
            continue
        if calibration is None and not job.allow_synthetic:
            raise SamplesError(
                f"{item.name} needs calibration data: give --calib PATH, or --allow-synthetic to do"
                " with drawn inputs"
            )
        if item.calibrated and calibration is not None and calibration.count() == 0:
            raise SamplesError(f"{item.name} needs more samples: one is held out for the proof")


def _demand_proof(job: Job, proof: Proof) -> None:
    lossy = [p.name for p in job.passes if not p.exact]
    required = bool(lossy) if job.require_proof is None else job.require_proof
    if proof.unproven and required:
        raise UnprovenError(f"outputs cannot be compared, so nothing is written: {proof.unproven}")
