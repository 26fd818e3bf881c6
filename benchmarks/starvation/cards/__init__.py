"""What a loop feeds: emulated cards and real ones, and how long their steps take."""
