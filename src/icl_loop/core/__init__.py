"""What every other package builds on: errors, messages, records, tokens, validation."""
