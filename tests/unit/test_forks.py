"""Several processes: forked ones use what their parent has loaded, others load it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import efficientad

FORKED = """
import os, signal, sys
import numpy as np
import efficientad

IMAGE = np.zeros((64, 64, 3), np.uint8)

def score_of(predictor):
    return predictor.predict(IMAGE).image_score

def in_child(function):
    child = os.fork()
    if child == 0:
        signal.alarm(250)  # it may wait for a thread for ever
        os._exit(not function())
    assert os.waitpid(child, 0)[1] == 0

for path, engine in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    predictor = efficientad.load(path, engine=engine)
    in_child(lambda: score_of(predictor) > 0)
    own = score_of(predictor)
    in_child(lambda: score_of(predictor) == own)
    in_child(lambda: score_of(efficientad.load(path, engine=engine)) == own)
    assert score_of(predictor) == own
"""

SENT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import efficientad

IMAGE = np.zeros((64, 64, 3), np.uint8)

def score_of(path):
    return efficientad.load(path).predict(IMAGE).image_score

if __name__ == "__main__":
    path, method = sys.argv[1:]
    own = score_of(path)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(score_of, path).result(timeout=250) == own
"""


@pytest.fixture
def model(predictor, tmp_path):
    path = tmp_path / "part.ead"
    efficientad.save(predictor, path)
    return path


def run(script, *arguments, folder):
    path = folder / "script.py"
    path.write_text(script)
    subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        check=True,
        timeout=300,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": str(Path(efficientad.__file__).parents[1]),
        },
    )


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")


@needs_fork
@pytest.mark.parametrize("engine", ["native", "pytorch"])
def test_a_forked_child_predicts_as_its_parent(model, tmp_path, engine):
    run(FORKED, model, engine, folder=tmp_path)


@pytest.mark.slow
@needs_fork
def test_a_forked_child_predicts_with_an_export(exports, tmp_path):
    pairs = [part for name, path in exports.items() for part in (path, name)]

    run(FORKED, *pairs, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_another_process_loads_the_file_itself(model, tmp_path, method):
    run(SENT, model, method, folder=tmp_path)
