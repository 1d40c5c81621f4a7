"""Networks as files: weights with a card that describes them."""
