"""Image files: read, compared, written."""
