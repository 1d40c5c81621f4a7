"""Networks that turn a patch into feature maps."""
