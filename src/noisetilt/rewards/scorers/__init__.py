"""The learned rewards of this package: `alignment`, `concept:*`, `style:*` and `classifier:imagenet:*`."""
