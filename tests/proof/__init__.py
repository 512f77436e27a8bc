"""What the tests found, as figures: each part records them, `make proof` makes the scoreboard."""
