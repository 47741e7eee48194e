"""Rounds of self-training: members label scans, a student learns what they agree on."""
