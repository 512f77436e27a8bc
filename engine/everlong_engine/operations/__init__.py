"""What the engine does to a store, one small piece each."""
