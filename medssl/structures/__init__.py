"""What is made of a label map for others: figures of structures, contours, meshes, RTSTRUCT."""
