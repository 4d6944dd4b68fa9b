"""Context policies: which past turns the next request shows, within the tokens of a window."""
