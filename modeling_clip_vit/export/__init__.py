"""Export: image tower, text tower and joint model as ONNX, OpenVINO, torch.export, ExecuTorch."""
