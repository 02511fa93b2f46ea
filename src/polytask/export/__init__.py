"""A trained network in a form that others run: ONNX and torch.export, and what reads them without torch."""
