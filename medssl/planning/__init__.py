"""From a dataset's fingerprint to a recipe in which every choice is explained."""
