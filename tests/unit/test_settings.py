"""Settings and arguments are checked, and made plain, when they are given."""

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch

from efficientad.decisions.decision import Calibration
from efficientad.errors import ConfigError
from efficientad.images.rgb import ImageLike
from efficientad.method.maps import MapScale
from efficientad.settings import (
    Budget,
    Range,
    Seed,
    Share,
    Steps,
    checked,
    checks_arguments,
)
from efficientad.training.config import TrainConfig

Speed = Literal["slow", "fast"]
EVEN = Annotated[int, Range(32, 384, 32)]
PART = "parts/part.png"


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        (np.int64(7), int, 7),
        (np.uint8(7), Steps | None, 7),
        (None, Steps | None, None),
        (np.float32(0.25), float, 0.25),
        (np.int32(2), float, 2.0),
        (3, float, 3.0),
        (np.bool_(True), bool, True),  # noqa: FBT003 - it is the value of the case
        (2**64 - 1, Seed, 2**64 - 1),
        (1e-6, Share, 1e-6),
        (96, EVEN, 96),
        (np.str_("fast"), Speed, "fast"),
        (np.str_("part"), str, "part"),
        (Path("net.pt"), str, "net.pt"),
        (PART, Path, Path(PART)),
        (PART, Path | str, Path(PART)),
        ([np.float32(0.5), 0.25], tuple[Share, ...], (0.5, 0.25)),
        ([PART], Path | str | Sequence[Path | str], (Path(PART),)),
    ],
)
def test_a_value_becomes_the_plain_one_of_its_annotation(given, kind, expected):
    found = checked("setting", given, kind)

    assert type(found) is type(expected)
    assert found == expected
    if isinstance(expected, tuple):
        assert [type(each) for each in found] == [type(each) for each in expected]


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ([None], Sequence[ImageLike]),  # images are checked where they are read
        (iter([None]), Iterable[ImageLike]),
        ({"a": "b"}, Mapping[str, int]),
        (print, Callable[[int], int]),
        ([0.5], Any),
    ],
)
def test_the_content_of_others_is_left_to_their_reader(given, kind):
    assert checked("setting", given, kind) is given


NUMBER = "must be a finite number"
WHOLE = "must be a whole number"


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (True, Steps, f"{WHOLE} from 1 to 10000000, got True"),
        (np.bool_(True), int, f"{WHOLE}, got a bool"),  # noqa: FBT003
        (True, float, f"{NUMBER}, got True"),
        (1, bool, "must be True or False, got 1"),
        ("no", bool, "must be True or False, got 'no'"),
        (2.0, int, f"{WHOLE}, got 2.0"),
        (math.nan, Steps | None, f"{WHOLE} from 1 to 10000000, got nan"),
        (math.nan, float, f"{NUMBER}, got nan"),
        (-math.inf, Budget, f"{NUMBER} from 1e-06 to 0.5, got -inf"),
        (1e-320, Budget, f"{NUMBER} from 1e-06 to 0.5, got 1e-320"),
        (10**9, Steps, f"{WHOLE} from 1 to 10000000, got 1000000000"),
        (-1, Seed, f"{WHOLE} from 0 to 18446744073709551615, got -1"),
        (2**64, Seed, f"{WHOLE} from 0 to 18446744073709551615, got one of 65 bits"),
        (10**400, float, f"{NUMBER}, got one of 1329 bits"),
        (100, EVEN, f"{WHOLE} from 32 to 384 in steps of 32, got 100"),
        (1 + 0j, float, f"{NUMBER}, got (1+0j)"),
        (torch.tensor(3), int, f"{WHOLE}, got a Tensor"),
        (np.ones(2), float, f"{NUMBER}, got an array of shape (2,)"),
        ("quick", Speed | None, "must be slow or fast, got 'quick'"),
        (np.array(["slow", "fast"]), Speed, "slow or fast, got an array of shape (2,)"),
        (None, str, "must be a text, got None"),
        ("", Path | str, "must be a path, got ''"),
        ("a\0b", Path, "must be a path, got 'a\\x00b'"),
        (b"part", Path, "must be a path, got a bytes"),
        (None, Path | str | Sequence[ImageLike], "must be a path or a list, got None"),
        (PART, Sequence[Path | str], f"must be a list, got '{PART}'"),
        ([PART, 3], Sequence[Path | str], "setting[1] must be a path, got 3"),
        ((0.5, 1), tuple[Share, ...], "setting[1] must be a finite number from 1e-06"),
        (0.5, tuple[Share, ...], "must be a list, got 0.5"),
        (np.zeros((2, 9, 9, 3)), Sequence[ImageLike], "an array of shape (2, 9, 9, 3)"),
        (torch.zeros(2, 3), Iterable[ImageLike], "an array of shape (2, 3)"),
        (PART, Iterable[ImageLike], f"must be an Iterable, got '{PART}'"),
        (io.StringIO(), Calibration, "must be a Calibration, got a StringIO"),
        (print, Mapping[str, int], "must be a Mapping, got a builtin_function_or_"),
    ],
)
def test_a_value_of_another_type_or_range_is_one_sentence(given, kind, words):
    with pytest.raises(ConfigError) as refused:
        checked("setting", given, kind)

    sentence = str(refused.value)
    assert words in sentence
    assert sentence.startswith("setting")
    assert "\n" not in sentence
    assert len(sentence) < 120


def test_arguments_are_checked_by_their_names_and_defaults_are_not():
    def cut_with(part: Path, *, depth: Steps = 0, speed: Speed = "slow") -> Any:
        return part, depth, speed

    cut: Callable[..., Any] = checks_arguments(cut_with)
    assert cut(PART, speed=np.str_("fast")) == (Path(PART), 0, "fast")
    with pytest.raises(ConfigError, match="depth must be a whole number from 1"):
        cut(PART, depth=0)
    with pytest.raises(TypeError, match="part"):
        cut()
    with pytest.raises(TypeError, match="deep"):
        cut(PART, deep=1)


def test_a_budget_that_a_float_can_hardly_hold_ends_no_calibration():
    scales = {"local": MapScale(0.0, 1.0)}

    assert Calibration(scales, (0.1,), 1e-6).n_more_images_needed == 999_998
    with pytest.raises(ConfigError, match=r"from 1e-06 to 0\.5, got 1e-320"):
        Calibration(scales, (0.1,), 1e-320)


def test_budgets_in_the_wrong_order_are_refused_before_a_training():
    TrainConfig(false_alarm_budget=0.01, unsure_budget=0.02)

    with pytest.raises(ConfigError, match="holds the 1 % of false alarms as well"):
        TrainConfig(false_alarm_budget=0.01, unsure_budget=0.01)
