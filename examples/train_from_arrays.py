"""Train on pictures in memory and predict for new ones, without files.

Replace `photograph` with your camera.

    python examples/train_from_arrays.py
"""

import sys

import efficientad
from efficientad.demo_parts import DefectType, draw_part
from efficientad.images.rgb import RGBImage

steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50


def photograph(number: int, defect_type: DefectType | None = None) -> RGBImage:
    """Return a picture, as a camera does: uint8 RGB of (height, width, 3)."""
    return draw_part(number, defect_type)[0]


normal_images = [photograph(number) for number in range(12)]
config = efficientad.TrainConfig(steps=steps)
predictor = efficientad.train(normal_images, config)

for picture in (photograph(1000), photograph(1000, "scratch")):
    prediction = predictor.predict(picture)
    print(prediction.image_score, prediction.p_value, prediction.is_anomalous)
