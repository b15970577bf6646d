"""What is said about the result."""
