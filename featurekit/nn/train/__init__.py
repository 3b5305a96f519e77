"""Trains the encoder on the targets of a dataset: `python -m featurekit.nn.train DATASET`.

Returns of markets are hard to predict: an R2 near 0 on validation is what to expect. What the run
shows is whether the encoder lives: the share of exact zeros in the projection's gradient.
"""

from featurekit.nn.train.supervised import Epoch, Training, save, train

__all__ = ["Epoch", "Training", "save", "train"]
