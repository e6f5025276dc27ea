"""xai-service: predictions with exact explanations in one call, each decision recorded."""

from importlib.metadata import version

__version__ = version("xai-service")
