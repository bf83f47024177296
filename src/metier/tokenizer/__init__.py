"""Text to ids: pieces, learning them, trimming them."""
