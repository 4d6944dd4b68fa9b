"""What can be done with saved sessions: verify, branch, rescore, what-if."""
