"""Embeddings of a slide's patches and regions."""
