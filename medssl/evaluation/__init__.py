"""Metrics on label maps, per case and structure, with their policy, intervals and comparisons."""
