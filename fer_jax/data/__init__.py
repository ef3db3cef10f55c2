"""Data sets of faces: readers of the forms users have, and the prepared form every run loads."""
