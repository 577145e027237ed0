"""The other systems that the paper compares EfficientAD with, behind one interface."""
