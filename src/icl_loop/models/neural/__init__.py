"""Neural networks that were trained to learn from the feedback in their context."""
