import numpy as np
import pytest

from efficientad.natural_images import procedural_textures


@pytest.mark.parametrize("field", procedural_textures._FIELDS)
def test_a_field_spans_values_from_0_to_1_and_varies(field):
    rng = np.random.default_rng(3)
    for _ in range(10):
        values = field(rng)
        assert (values.shape, values.dtype.name) == ((256, 256), "float32")
        assert values.min() >= 0
        assert values.max() <= 1
        assert values.std() > 0.01


def test_a_scene_shows_more_textures_than_one(rng):
    colors = [
        len(set(map(tuple, np.asarray(procedural_textures._scene(rng)).reshape(-1, 3))))
        for _ in range(20)
    ]
    assert min(colors) > 2
