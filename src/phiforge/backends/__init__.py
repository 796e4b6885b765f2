"""Text in, text out: our engine, llama.cpp, any OpenAI-style address, behind one small interface."""
