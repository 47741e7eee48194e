"""Models as one file that may travel, and the models that came that way."""
