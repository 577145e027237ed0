"""How a detector comes to be: distillation, training, calibration, the model file."""
