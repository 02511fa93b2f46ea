"""A search for the values of a recipe's fields that lead to the least validation loss, or to the whole front over its tasks."""
