"""This computer: whether medssl works on it, what it takes of the disk, and what it can show."""
