"""Plain dictionaries: for simulation, and as the oracle that the SQL is held against."""
