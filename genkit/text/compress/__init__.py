"""Cheaper models out of a model: quantised, pruned, distilled."""
