"""The run folder: its files, checkpoint, lock and budget."""
