"""From a YAML file to a recipe that is checked and resolved."""
