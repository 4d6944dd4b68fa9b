"""Everything printed in a terminal: progress, result tables, the replay viewer."""
