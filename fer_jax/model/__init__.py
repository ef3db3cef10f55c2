"""Images to logits.

In come normalised images [n, 40, 40, 1] and the fields of `config.network`; out go logits [n, classes] and, on request, the maps of
attention. What a network has in layers and parameters is counted here too.
"""
