"""Scores of captions, without a model."""
