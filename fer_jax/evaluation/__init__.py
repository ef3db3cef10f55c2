"""Weights × split → numbers and their pictures.

In come a network's variables and the faces of a split; out go the confusion matrix and all that is counted from it, each image's
probabilities, and the files and figures that show them.
"""
