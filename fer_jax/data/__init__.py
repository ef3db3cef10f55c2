"""From a source to arrays, and from pixels to the network's input.

In come a CSV, an archive or a folder of pictures; out go prepared shards with a manifest, the splits as uint8 faces with labels, and
their crops in the range that the network takes.
"""
