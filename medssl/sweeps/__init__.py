"""Many runs of one recipe, summarized."""
