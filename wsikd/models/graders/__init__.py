"""Networks that grade a patch."""
