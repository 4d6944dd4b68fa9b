"""Many sessions at once: scheduling, models, early stopping, engines."""
