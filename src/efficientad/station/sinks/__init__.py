"""Receivers of each inspection."""
