"""The methods: one algorithm a file, its settings beside it."""
