"""The bundled encoder and its training: what the rows are made for. Brings torch."""

from featurekit.nn.encoder import TemporalEncoder
from featurekit.nn.health import GradientHealth
from featurekit.nn.probes import Probes
from featurekit.nn.vital_report import Health

__all__ = ["GradientHealth", "Health", "Probes", "TemporalEncoder"]
