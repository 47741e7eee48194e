"""Networks by name: MONAI's own, and the few that the papers need and MONAI lacks."""
