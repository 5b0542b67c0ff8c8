"""Stage 1: FAISS over pooled descriptors, and exact ranking of its candidates."""
