"""What goes on in the background: one file each, bounded per tick."""
