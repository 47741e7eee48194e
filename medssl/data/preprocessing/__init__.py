"""From image files to memory-mapped arrays."""
