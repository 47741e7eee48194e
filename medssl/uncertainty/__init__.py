"""How sure a prediction is, and what to look at first."""
