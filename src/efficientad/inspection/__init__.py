"""Prediction: opening model files, predicting images, changing decisions."""
