"""What wsikd writes: names, markers, locks, and the one owner of every deletion."""
