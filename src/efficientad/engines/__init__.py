"""Engines, which compute raw grids from pixels."""
