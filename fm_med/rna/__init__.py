"""Transcriptomes: matrices of gene expression, units, gene names, processor and encoders."""
