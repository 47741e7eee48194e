"""Several hospitals that train one model and meet in a folder; no scan leaves a site."""
