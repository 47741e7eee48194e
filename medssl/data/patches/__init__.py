"""Patches by address, and their augmentation."""
