"""Reports: a frozen Hugging Face text model, its embeddings on disk, statements and prompts."""
