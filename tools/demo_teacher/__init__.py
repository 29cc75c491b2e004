"""Trains the demo teacher, its evaluator and its latent features from Fashion-MNIST."""
