"""The bundled encoder and its training: what the rows are made for. Brings torch."""

from featurekit.nn.encoder import TemporalEncoder

__all__ = ["TemporalEncoder"]
