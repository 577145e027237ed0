"""Prediction: model files opened, pictures predicted, decisions changed."""
