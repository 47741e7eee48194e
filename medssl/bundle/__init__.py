"""MONAI bundles: what leaves medssl, for MONAI's own tools and for ``medssl predict``."""
