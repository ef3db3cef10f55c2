"""Photographs and video → faces → labels; the service and the page.

In come pictures, films, a camera or arrays; out go each face's place and probabilities, pictures drawn upon, and what the network
looked at.
"""
