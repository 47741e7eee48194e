"""Cross-validation: every patient with a label trains and judges, and one verdict says what for."""
