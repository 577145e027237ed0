"""Which providers of ONNX Runtime run a file; a GPU is not needed to choose."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from efficientad.engines.onnxruntime import OnnxRuntimeEngine, cuda_providers
from efficientad.errors import ConfigError

PART = Path("part.onnx")
CPU, CUDA, TENSORRT = (
    f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt")
)


def test_files_in_fp32_run_by_cuda_without_tf32():
    found = cuda_providers(PART, "fp32", [TENSORRT, CUDA, CPU])

    assert found == [(CUDA, {"use_tf32": "0"})]


def test_files_in_fp16_run_by_tensorrt_where_it_is_available():
    found = cuda_providers(PART, "fp16", [TENSORRT, CUDA, CPU])

    assert [name for name, _ in found] == [TENSORRT, CUDA]
    assert found[0][1] == {"trt_fp16_enable": "1"}
    without = cuda_providers(PART, "fp16", [CUDA, CPU])
    assert [name for name, _ in without] == [CUDA]


def test_files_in_int8_are_refused_on_a_gpu():
    with pytest.raises(ConfigError, match=r"part\.onnx is in int8.*export fp16"):
        cuda_providers(PART, "int8", [CUDA, CPU])


def test_an_installation_without_cuda_is_refused_with_what_to_install():
    with pytest.raises(
        ConfigError, match=f"needs onnxruntime-gpu.*has {CPU}.*install onnxruntime-gpu"
    ):
        cuda_providers(PART, "fp32", [CPU])


@pytest.mark.parametrize("running", [[CPU], [CUDA, CPU]])
def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch, running):
    class Session:
        def __init__(self, path, _options, providers):
            assert path == str(PART)
            assert [name for name, _ in providers] == [CUDA, CPU]

        def get_providers(self):
            return running

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)

    if CUDA in running:
        assert OnnxRuntimeEngine(PART, device="cuda").device == "cuda"
    else:
        with pytest.raises(ConfigError, match="libraries of onnxruntime-gpu"):
            OnnxRuntimeEngine(PART, device="cuda")


@pytest.mark.gpu
def test_a_gpu_gives_the_grids_of_the_cpu(exports, photograph):
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("needs onnxruntime-gpu")
    images = photograph(256, 256)[np.newaxis]
    expected = OnnxRuntimeEngine(exports["onnxruntime"]).run(images).grids

    found = OnnxRuntimeEngine(exports["onnxruntime"], device="cuda").run(images).grids

    for name, grids in expected.items():
        np.testing.assert_allclose(
            found[name], grids, rtol=0, atol=1e-4 * np.abs(grids).max()
        )
