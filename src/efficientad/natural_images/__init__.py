"""Natural images for the pretraining penalty and for distillation."""
