"""Text in: documents, tokenizer, packing, chat templates."""
