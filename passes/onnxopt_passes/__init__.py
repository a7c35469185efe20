"""The passes that come with onnxopt, one package each; `onnxopt.registry` finds them."""
