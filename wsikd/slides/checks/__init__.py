"""Whether an image is what wsikd grades, and whether its data are sound."""
