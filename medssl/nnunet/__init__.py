"""The way to nnU-Net: a raw folder of truth and believed pseudo-labels, its folds, a trainer."""
