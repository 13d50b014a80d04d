"""An index of one's own pictures, and searches in it; nothing here needs torch to search."""
