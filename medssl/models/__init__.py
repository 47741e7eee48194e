"""A model made from a recipe; a run, its folds or an ensemble opened again."""
