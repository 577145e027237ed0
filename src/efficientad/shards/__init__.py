"""Prediction of very many images, divided into shards."""
