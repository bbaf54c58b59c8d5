"""One file, one task, and what it is made of; installed as clipbench.tasks.

imagenet.py      ResNet18 on folders of images, or digits
voc.py           UNet on VOC's layout, or scenes of digits
cola.py          BERT on sentences
reddit.py        GraphConv on sampled neighbourhoods
lm.py            GPT, Llama or recurrent nets on text, or a generated language
reber.py         recurrent nets on strings of a grammar
adding.py        recurrent nets on long sequences, two numbers to add

digits.py        scikit-learn's handwritten digits, in three fixed parts
crops.py         parts of images, resized as bytes
pixels.py        images as bytes on the way, as numbers on the device
scenes.py        scenes of digits: voc at scale=mini
voc_files.py     the files of Pascal VOC
unet.py          the UNet of voc
cola_grammar.py  the sentences of cola at scale=mini
reddit_graph.py  neighbour sampling, and the net of reddit
communities.py   the graph of reddit at scale=mini
hub.py           what is loaded from a folder or the Hugging Face hub
bits.py          bits per byte, perplexity
documents.py     text of files and data sets, by document
encoders.py      bytes, or a tokenizer's tokens
streams.py       tokens of a split, and windows of them
prepared_text.py tokens made once, mapped into memory
language.py      the generated language of lm at scale=mini
language_models.py  GPT, Llama, recurrent nets; a model to fine-tune
ngram.py         the n-gram that lm is held against
reber_grammar.py the strings of reber
recurrent.py     recurrent nets by name, and how they start
draws.py         whole numbers by chance, the same everywhere
"""
