"""Gradients of pooling."""

