"""Reference learners: ordinary algorithms that read exactly the messages a model reads."""
