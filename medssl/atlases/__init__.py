"""Labeled scans that are registered to another scan, and vote on its label."""
