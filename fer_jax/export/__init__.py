"""Weights → a file for another runtime.

In come a network's weights; out goes a file (StableHLO, ONNX or LiteRT) that takes whole grey faces and was compared with the network
before it was written.
"""
