"""Age of faces: the deploy definition and the class names."""
