"""From a trained model to what others run: GGUF, Ollama, a Hugging Face folder, and the gate that holds them to the model."""
