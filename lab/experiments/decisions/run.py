"""Decisions with and without the composition, by several rules and budgets.

    python lab/experiments/decisions/run.py part.ead ../shared/data/mvtec_ad/screw

The networks of a trained detector stay, so maps and pixel metrics are the same for all
variants.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from efficientad.calibration.composition import learn_composition
from efficientad.calibration.fit import fit_calibration
from efficientad.calibration.normal_images import Pixels, read_normal_images
from efficientad.calibration.scoring import joined, outputs, scores
from efficientad.datasets import open_category
from efficientad.decisions.decision import Calibration
from efficientad.engines.engine import Engine, EngineOutput
from efficientad.evaluation.evaluate import held_out_au_roc, image_metrics
from efficientad.inspection.opening import detector_engine, load
from efficientad.inspection.predictor import Predictor
from efficientad.method.composition import COMPOSITION
from efficientad.method.detector import Detector
from efficientad.storage import file_hash
from efficientad_lab.environment import environment
from efficientad_lab.studies.records import Run, write_run

RESULTS = Path(__file__).with_name("results")
BUDGETS = (0.01, 0.03, 0.05)


def pixels_of(paths: list[str], predictor: Predictor) -> Pixels:
    """Return images as the networks see them."""
    return read_normal_images(paths, predictor.preparation).pixels


def without_values(output: EngineOutput) -> EngineOutput:
    """Return an output without image-level values."""
    return joined([EngineOutput(output.grids)])


class MapsAlone:
    """Engine that leaves out the image-level values of another one."""

    is_concurrent = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.precision, self.device = engine.precision, engine.device

    def run(self, pixels: Pixels) -> EngineOutput:
        """Compute the grids of a batch."""
        return without_values(self._engine.run(pixels))


def variants(
    engine: Engine,
    held_out: Pixels,
    training: EngineOutput,
    predictor: Predictor,
) -> Iterator[tuple[str, Calibration]]:
    """Yield the calibrations to compare, by their names."""
    for name, chosen, output in (
        ("maps alone", MapsAlone(engine), without_values(training)),
        ("with composition", engine, training),
    ):
        recipe = predictor.provenance["recipe"]
        calibration = fit_calibration(
            chosen,
            held_out,
            divides_by_level=recipe.get("divides_by_level", False),
            training=output,
            alignment=predictor.preparation.alignment,
        )
        yield (
            f"{name}, highest held-out score",
            replace(calibration, threshold_rule="rank", false_alarm_budget=0.001),
        )
        for rule in ("estimate", "steady"):
            for budget in BUDGETS:
                yield (
                    f"{name}, {rule} for {100 * budget:g} %",
                    replace(
                        calibration, threshold_rule=rule, false_alarm_budget=budget
                    ),
                )


def measured(
    calibration: Calibration, test: EngineOutput, is_defect: np.ndarray
) -> Run:
    """Return metrics and decisions of a calibration on the test images."""
    found = scores(calibration, test)
    flagged = found > calibration.threshold
    alarms = calibration.session_alarms()
    metrics = image_metrics(found, is_defect)
    held_out = held_out_au_roc(found[is_defect], calibration.normal_scores)
    session = float(np.mean(list(alarms.values())))
    return {
        "metrics": {
            **metrics,
            "image_au_roc_held_out": held_out,
            "session_alarms": session,
        },
        "session_alarms": alarms,
        "weight": [term.slope for term in calibration.terms.values()],
        "n_training_scores": len(calibration.training_scores),
        "threshold": calibration.threshold,
        "n_defect": int(is_defect.sum()),
        "n_normal": int((~is_defect).sum()),
        "n_defects_found": int(flagged[is_defect].sum()),
        "n_normal_flagged": int(flagged[~is_defect].sum()),
    }


def main() -> None:
    """Measure and record one product."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("category", type=Path)
    parser.add_argument("--name", help="name of the product; default: the folder's")
    given = parser.parse_args()
    predictor = load(given.model, device="cpu")
    provenance = predictor.provenance
    assert predictor.weights is not None
    assert predictor.detector is not None
    seed = int(provenance["seed"])
    # The composition of an earlier version may be that of the teacher.
    networks = {k: v for k, v in predictor.weights.items() if COMPOSITION not in k}
    detector = Detector.from_arrays(networks, predictor.detector.size)
    composition, training = learn_composition(
        detector_engine(detector),
        pixels_of(list(provenance["training_images"]), predictor),
        seed=seed,
    )
    assert composition is not None
    detector.set_composition(composition)
    engine = detector_engine(detector)
    category = open_category(given.category)
    test = outputs(engine, pixels_of([str(s.path) for s in category.test], predictor))
    is_defect = np.array([sample.is_defect for sample in category.test])
    held_out = pixels_of(list(provenance["validation_images"]), predictor)
    for name, calibration in variants(engine, held_out, training, predictor):
        run = {
            "experiment": "decisions",
            "collection": category.collection,
            "category": given.name or category.name,
            "variant": name,
            "seed": seed,
            "settings": {"detector": file_hash(given.model)},
            **measured(calibration, test, is_defect),
        }
        print(write_run(run | environment(), RESULTS))


if __name__ == "__main__":
    main()
