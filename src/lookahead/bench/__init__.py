"""Measuring: data sets, methods, runs, reports."""
