"""Where histories lie: one protocol, one package per database."""
