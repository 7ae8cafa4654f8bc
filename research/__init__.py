"""What serves measuring the project itself, not its users."""
