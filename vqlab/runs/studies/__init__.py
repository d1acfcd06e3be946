"""Studies: several arms on the same data, their runs, and the page that compares them."""
