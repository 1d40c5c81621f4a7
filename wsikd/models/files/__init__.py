"""Files of networks: weights, and a card that describes them."""
