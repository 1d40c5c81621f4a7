"""How many random changes of the code the tests catch."""
