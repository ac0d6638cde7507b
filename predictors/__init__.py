"""Predictors of what an impression is worth."""
