"""What bundles bring of medssl: needs PyTorch, MONAI, NumPy, SciPy and nibabel alone."""
