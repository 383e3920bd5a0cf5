"""Files of texts as people have them: one reader for all of them."""
