"""The deck's fine-tuning loop, beside Stoker's packed loader over the same rows.

`python -m benchmarks.starvation.deck --text wikitext-2/ --tokenizer llama-3/ --output report/deck`
"""
