"""What a recipe and a data spec may say, and what ships."""
