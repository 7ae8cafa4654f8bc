"""A fleet of replicas, simulated on recorded answers: what memories and their exchange give, and cost."""
