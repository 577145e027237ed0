"""Predictors of fitted methods: calibration on held-out images, and model files.

The product's calibration, `Predictor` and file container are used as they are. Two
things differ. A method may have an image score of its own. Then the score is scaled so
that held-out images have the mean and the deviation that the maxima of their maps have,
so that one threshold fits scores and maps. And a file holds the backbone's weights, so
that it is complete.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from efficientad.calibration.normal_images import Pixels
from efficientad.calibration.scoring import outputs, scores
from efficientad.decisions.budget import DEFAULT_BUDGET
from efficientad.decisions.decision import Calibration, TermScale
from efficientad.distillation.weights_reader import Weights
from efficientad.engines.engine import EngineOutput
from efficientad.errors import ConfigError, DatasetError, ModelFileError
from efficientad.inspection.predictor import Predictor
from efficientad.method.maps import combine_maps, image_scores, normalize_maps
from efficientad.model_files import container
from efficientad.model_files.calibration_entry import (
    calibration_entry,
    read_calibration,
)
from efficientad.model_files.json_text import read_provenance
from efficientad.model_files.tensors import as_arrays, as_tensors
from efficientad_lab.methods.fitting import load_fitted
from efficientad_lab.methods.method import Method, MethodEngine
from efficientad_lab.methods.stages import Stages

_BACKBONE: Final = "backbone"


def calibrated(
    method: Method,
    held_out: Pixels,
    provenance: Mapping[str, Any],
    *,
    false_alarm_budget: float = DEFAULT_BUDGET,
) -> Predictor:
    """Return the predictor of a fitted method.

    Args:
        method: Fitted method.
        held_out: Normal images outside the training set, (n, 256, 256, 3), RGB.
        provenance: How the method was fitted; JSON-like, with the training images.
        false_alarm_budget: Share of normal images that may be flagged, in (0, 1).

    Raises:
        DatasetError: If there are no held-out images, or the method's score does not
            tell them apart.
        ConfigError: If their maps are constant.
    """
    if len(held_out) == 0:
        raise DatasetError("calibration needs normal images outside the training set")
    engine = MethodEngine(method)
    output = outputs(engine, held_out)
    scales = {name: method.fit_scale(grids) for name, grids in output.grids.items()}
    terms = _terms(
        output, image_scores(combine_maps(normalize_maps(output.grids, scales)))
    )
    blank = Calibration(
        scales,
        (0.0,),
        false_alarm_budget,
        terms=terms,
        threshold_rule="estimate",
        score_has_map=not terms,
    )
    own = tuple(sorted(scores(blank, output).tolist()))
    return Predictor(
        engine=engine,
        calibration=replace(blank, normal_scores=own),
        provenance={**provenance, "method": method.title()},
    )


def _terms(output: EngineOutput, of_maps: NDArray[np.float32]) -> dict[str, TermScale]:
    """Return the scales of a method's own scores.

    Each is scaled by its minimum and maximum on held-out images, and they are averaged.
    An affine function then gives the result the mean and deviation of `of_maps`.
    """
    values = {name: v[:, 0].astype(np.float64) for name, v in output.values.items()}
    if not values:
        return {}
    lows = {name: float(v.min()) for name, v in values.items()}
    ranges = {name: float(np.ptp(v)) for name, v in values.items()}
    if not all(ranges.values()) or of_maps.std() == 0:
        raise DatasetError(
            "a score is scaled by held-out images with different scores, those of "
            f"{len(of_maps)} are all the same; hold out other normal images"
        )
    joint = np.mean([(values[n] - lows[n]) / ranges[n] for n in values], axis=0)
    slope = float(of_maps.std() / joint.std())
    offset = float(of_maps.mean() - slope * joint.mean())
    # The offset is shared by the terms; each moves its center.
    return {
        name: TermScale(
            lows[name] - offset * ranges[name] / slope,
            slope / ranges[name] / len(values),
        )
        for name in values
    }


def save_method(predictor: Predictor, path: Path) -> None:
    """Write a fitted and calibrated method to one file, atomically.

    Raises:
        ConfigError: If the predictor is none of a method.
        StorageError: If the file cannot be written; the previous file stays.
    """
    engine = predictor.engine
    if not isinstance(engine, MethodEngine):
        raise ConfigError(
            "only the predictor of a method can be saved as one, got one of "
            f"{type(engine).__name__}; use efficientad.save"
        )
    method = engine.method
    arrays = as_arrays(method.fitted_state())
    backbones = []
    for index, stages in enumerate(method.backbones):
        assert isinstance(stages, Stages)
        tensors = as_arrays(stages.weights.tensors)
        arrays |= {f"{_BACKBONE}{index}.{name}": v for name, v in tensors.items()}
        backbones.append(dict(stages.weights.metadata))
    content = {
        "method": type(method).__name__,
        "settings": asdict(method.settings),
        "backbones": backbones,
        "calibration": calibration_entry(predictor.calibration),
        "provenance": dict(predictor.provenance),
    }
    floats = {
        name: array if array.dtype.kind == "f" else array.astype(np.float64)
        for name, array in arrays.items()
    }
    container.write(path, "method", floats, content)


def load_method(path: Path, methods: Sequence[type[Method]]) -> Predictor:
    """Open the file of a method.

    Args:
        path: File that `save_method` has written.
        methods: Methods that it may be.

    Raises:
        ModelFileError: If it is missing, damaged, or of an unknown method.
    """
    arrays, content = container.read(path, "method")
    known = {method.__name__: method for method in methods}
    try:
        kind = known[content["method"]]
        settings = kind.Settings(**content["settings"])
        provenance = read_provenance(content["provenance"])
        n_backbones = len(content["backbones"])
        parts: dict[str, dict[str, Any]] = {}
        for name, tensor in as_tensors(arrays).items():
            part, _, rest = name.partition(".")
            is_backbone = (
                part.startswith(_BACKBONE) and part[len(_BACKBONE) :].isdigit()
            )
            key, own = (part, rest) if is_backbone else ("", name)
            parts.setdefault(key, {})[own] = tensor
        stages = [
            Stages(
                Weights(
                    path, parts[f"{_BACKBONE}{index}"], content["backbones"][index]
                ),
                settings.strides,
            )
            for index in range(n_backbones)
        ]
        method = kind(stages, settings)
        entry = content["calibration"]
        calibration = read_calibration(
            entry, maps=set(entry["scales"]), terms=set(entry["terms"])
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path} does not hold a method of this version (bad entry: {error}); fit "
            "it again"
        ) from error
    load_fitted(method, parts.get("", {}), path)
    return Predictor(
        engine=MethodEngine(method), calibration=calibration, provenance=provenance
    )
