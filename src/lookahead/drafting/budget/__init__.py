"""How many tokens a forward pass verifies: step times, policy, controller."""
