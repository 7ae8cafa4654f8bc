"""What is the same for all endpoints: errors, limits of bodies, streams of events."""
