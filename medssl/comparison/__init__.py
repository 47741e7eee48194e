"""Runs held against each other: paired differences, a verdict in one sentence."""
