"""Files as people have them: which ones a path means, and how each kind is read."""
