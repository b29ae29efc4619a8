"""The models' report: what the shipped backbones reach on real data, measured as models/protocol.toml says."""
