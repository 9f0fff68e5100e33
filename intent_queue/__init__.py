"""The priority queue of intents that wait, and its drain. Knows nothing of the rules that decide."""
