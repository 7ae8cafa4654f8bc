"""Measurements: data sets, methods, runs, reports, profiles, replay."""
