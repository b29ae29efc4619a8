"""Builders of the loadonce backbones: data, pretraining, export, bundle and evaluation."""
