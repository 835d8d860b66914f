"""The ONNX form in other runtimes: OpenCV 5 and OpenVINO, in an environment of their own (see `install`)."""
