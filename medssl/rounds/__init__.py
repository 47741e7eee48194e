"""Rounds of labeling: which scans to label next, and taking the labels that come back."""
