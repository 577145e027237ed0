"""Prediction: opening model files, predicting images, showing results."""
