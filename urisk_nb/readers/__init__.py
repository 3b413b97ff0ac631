"""
What people hand over, read into frames: files of prices and evidence in the shapes that they come
in.
"""
