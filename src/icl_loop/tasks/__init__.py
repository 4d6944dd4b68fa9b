"""What is asked: data sets, encodings, prompt sets, labels, feedback, and the scoring of answers."""
