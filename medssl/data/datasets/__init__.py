"""Dataset folders, their cases, and who is trained on."""
