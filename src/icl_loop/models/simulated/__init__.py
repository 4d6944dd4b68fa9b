"""Simulated models: models with known behaviour, for testing the apparatus."""
