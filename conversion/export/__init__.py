"""Network -> model directory: the TensorFlow form, preprocessing, metadata, verification."""
